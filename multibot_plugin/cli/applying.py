"""Files and supervisord become what the database says: what ``apply`` does, and all commands that change a bot."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from multibot_plugin.cli.output import Context, count, one_line, say
from multibot_plugin.errors import MultibotError, Refused, SupervisordAway
from multibot_plugin.settings import FLEET_SETTINGS, load

if TYPE_CHECKING:
    from multibot_plugin.bots.conform import Applied
    from multibot_plugin.bots.plan import Plan
    from multibot_plugin.bots.store import Row


LEFT_STOPPED = "left stopped, somebody stopped it past multibot (bot start starts it)"


@dataclass(frozen=True)
class Result:
    """What was planned and done. ``applied`` None: supervisord is away; the files are written, ``away`` says why."""

    plan: Plan
    applied: Applied | None
    away: SupervisordAway | None = None

    @property
    def ok(self) -> bool:
        return not self.plan.problems and not (self.applied and self.applied.failed)

    def failure(self, bot: str) -> str | None:
        """Return why ``bot`` is not as it should be, None when it is."""
        failed = self.applied.failed if self.applied else {}
        return self.plan.problems.get(bot) or failed.get(bot)

    def left_stopped(self, bot: str) -> bool:
        """Whether ``bot`` should run and was not started, for somebody stopped it past multibot."""
        return self.applied is not None and bot in self.applied.standing

    def begun(self, bot: str) -> bool:
        """Whether supervisord has just started ``bot``, anew or again."""
        return self.applied is not None and bot in (*self.applied.started, *self.applied.restarted)


async def fetch(context: Context) -> list[Row]:
    """Return the row of every bot; raises DatabaseAway."""
    from multibot_plugin.bots.store import fetch_bots

    async with context.database() as connection:
        return await fetch_bots(connection)


def taken(context: Context) -> frozenset[str]:
    """Return the ids that programs of somebody else have, as far as supervisord tells."""
    try:
        with context.supervisor() as supervisor:
            return supervisor.foreign()
    except MultibotError:
        return frozenset()


def plan_now(context: Context, only: str | None = None) -> Plan:
    """Return what differs between the database and what is rendered, of one bot (``only``) or of all.

    Nothing is written.
    """
    from multibot_plugin.bots.apply import load as load_plan
    from multibot_plugin.bots.plan import narrowed

    plan = load_plan(context.home, context.settings, context.run(fetch(context)), taken=taken(context))
    return plan if only is None else narrowed(plan, {only})


def write_now(context: Context, force: bool = False, only: str | None = None) -> Result:
    """Write the files; nothing is started or stopped."""
    from multibot_plugin.bots.apply import write

    return _carry_out(context, only, lambda plan: write(context.home, plan, force=force))


def apply_now(context: Context, *, force: bool = False, later: bool = False, only: str | None = None) -> Result:
    """Apply what the database says of one bot (``only``) or of all.

    ``later``: where supervisord is away the files are written all the same, for its next start; without it this
    raises SupervisordAway before anything is written. ``force``: even if that removes every bot. Somebody else who
    changes the installation at the same moment is waited for.
    """
    from multibot_plugin.bots.apply import apply
    from multibot_plugin.bots.unfinished import Whose

    whose = Whose(context.actor.name, context.actor.door)

    def act(plan: Plan) -> Applied:
        with context.supervisor() as supervisor:
            return apply(context.home, plan, supervisor, force=force, whose=whose)

    try:
        return _carry_out(context, only, act)
    except SupervisordAway as error:
        if not later:
            raise
        return replace(write_now(context, force, only), away=error)


def _carry_out(context: Context, only: str | None, act: Callable[[Plan], Applied | None]) -> Result:
    """Plan and act. A plan that somebody else's overtook is made anew, however often: each time one gets through."""
    from multibot_plugin.bots.files import read_text

    while True:
        plan = plan_now(context, only)
        try:
            return Result(plan, act(plan))
        except Refused:
            if read_text(context.home.rendered) == plan.base:
                raise


def say_result(context: Context, result: Result, besides: str = "") -> None:
    """Say what was done, a line per bot and what is wrong; ``besides``: a bot of which the caller tells itself."""
    for bot, text in _lines(result):
        if bot != besides:
            say(f"{bot}: {one_line(text)}")
    for line in _taken_ports(context, result.plan):
        say(line)
    if others := result.plan.others:
        names = f"{', '.join(others[:5])}{', ...' if len(others) > 5 else ''}"
        verb = "differs" if len(others) == 1 else "differ"
        say(f"{names}: {verb} from what is applied, left as it is: '{context.home.command('apply')}'")


def _taken_ports(context: Context, plan: Plan) -> Iterator[str]:
    """Yield a line for each bot that was started or changed and whose port somebody else listens on."""
    touched = {*plan.added, *(change.bot for change in plan.changed)}
    ports = {bot: d.settings.port for bot, d in plan.deployments.items() if bot in touched and d.settings.port}
    if ports:
        from multibot_plugin.bots.ports import listening, stranger

        now = listening()
        for bot, port in ports.items():
            if who := stranger(context.home, bot, port, now):
                yield f"{bot}: its port {port} is in use by {who}: end that, or give {bot} another one (--port)"


def say_environment(context: Context) -> None:
    """Say which of the bots' settings come from this shell alone: the next shell's apply would take them back."""
    settings, kept = context.settings, load(context.home.toml, environ={})
    for setting in FLEET_SETTINGS:
        name = setting.name
        if setting.scope == "both" and settings.origins[name] == "environment" and settings[name] != kept[name]:
            keep = context.home.command(f"config set {name} ...")
            say(f"{setting.variable} of this shell is used, not multibot.toml: '{keep}' keeps it")


def _lines(result: Result) -> Iterator[tuple[str, str]]:
    plan, applied = result.plan, result.applied
    texts = {change.bot: "; ".join(f"{d.name} {_bare(d.text)}" for d in change.differences) for change in plan.changed}
    effects = {change.bot: str(change.effect) for change in plan.changed}
    done: dict[str, str] = {}
    if applied is not None:
        done |= dict.fromkeys(applied.started, "started") | dict.fromkeys(applied.restarted, "restarted")
        done |= dict.fromkeys(applied.rendered_again, "rendered again, as supervisord has it")
        done |= dict.fromkeys(applied.stopped, "stopped") | dict.fromkeys(applied.removed, "stopped and removed")
    words = {"live": "changed without a restart", "at its next start": "changed, takes effect at its next start"}
    otherwise = words["at its next start"] if applied else "changed, takes effect when supervisord starts"
    for bot, effect in effects.items():
        done.setdefault(bot, words.get(effect, otherwise))
    for bot in plan.added:
        done.setdefault(bot, "added, not started (not enabled)" if applied else "new, starts with supervisord")
    for bot in plan.removed:
        done.setdefault(bot, "removed")
    for bot in applied.standing if applied else ():
        done[bot] = LEFT_STOPPED
    for bot, text in (applied.failed if applied else {}).items():
        done[bot] = f"failed: {text}"
    for bot, problem in plan.problems.items():
        done[bot] = f"left as it is: {problem}"
    for bot in sorted(done):
        yield bot, f"{done[bot]} ({texts[bot]})" if texts.get(bot) else done[bot]


def _bare(text: str) -> str:
    """Return what stands in brackets without them, for it is going to stand in others."""
    inner = text[1:-1]
    return inner if text == f"({inner})" and "→" not in inner else text


def summary(result: Result) -> str:
    """Return one line: how many bots were started, restarted and so on. Pure."""
    plan, applied = result.plan, result.applied
    live = sum(change.effect == "live" for change in plan.changed)
    parts = [(live, "changed without a restart")]
    if applied is not None:
        parts = [(len(applied.started), "started"), (len(applied.restarted), "restarted"), *parts,
                 (len(applied.stopped), "stopped"), (len(applied.removed), "removed"),
                 (len(applied.rendered_again), "rendered again"), (len(applied.failed), "failed")]  # fmt: skip
    parts.append((len(plan.problems), "left as it is because of a problem"))
    told = ", ".join(f"{number} {text}" for number, text in parts if number)
    bots = count(len(plan.deployments) + len(plan.problems), "bot")
    return f"{bots}: {told}" if told else f"{bots}: nothing to do"


def as_json(result: Result) -> dict[str, Any]:
    """Return plan and result as plain values, masked."""
    applied = result.applied
    done: dict[str, Any] = {"applied": applied is not None}
    for name in ("started", "restarted", "stopped", "removed", "standing", "rendered_again"):
        done[name] = list(getattr(applied, name)) if applied else []
    return {"plan": result.plan.as_json(), **done, "failed": dict(applied.failed) if applied else {}}
