"""The one place that acts: from rows to a plan, from a plan to files, from files to supervisord."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from multibot_plugin.bots.config import BotConfig, Deployment, deploy
from multibot_plugin.bots.files import (
    changing,
    owner_of,
    read_deployment,
    read_key,
    read_text,
    sweep,
    translated,
    write_bot,
    write_key,
)
from multibot_plugin.bots.plan import Plan, Rendered, make_plan
from multibot_plugin.bots.render import Place, Section, read_rendered, render, with_autostart
from multibot_plugin.errors import BadValue, MultibotError, NoSuchBot, Refused, Unreachable
from multibot_plugin.home import Home
from multibot_plugin.journal import Journal
from multibot_plugin.settings import Settings
from multibot_plugin.supervisor.client import (
    STILL_RUNNING,
    STOPPED_STATES,
    Reread,
    Supervisor,
    SupervisorFault,
    bot_of,
    program,
)
from multibot_plugin.supervisor.conf import parse, template
from multibot_runner.protocol import BOT_ID, replace_file

_POLL_S = 0.1
_STOP_MORE_S = 15.0


@dataclass(frozen=True)
class Applied:
    """What was done, by bot. ``foreign``: programs that changed in the files and are not bots (left alone).

    ``failed``: what did not work, a line for each bot; the next apply takes it up again.
    """

    started: tuple[str, ...] = ()
    restarted: tuple[str, ...] = ()
    stopped: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    foreign: tuple[str, ...] = ()
    failed: Mapping[str, str] = field(default_factory=dict)


def load(home: Home, fleet: Settings, rows: Iterable[Mapping[str, Any]], python: str = sys.executable) -> Plan:
    """Return the plan from what is rendered to ``rows`` (store.fetch_bots), without writing anything.

    A row that cannot be used becomes a problem of that bot. A wish that waits in the journal counts as if the
    database had it already. ``python`` is multibot's interpreter.
    """
    key, wishes = read_key(home), Journal(home.journal).wishes()
    deployments: dict[str, Deployment] = {}
    owners: dict[str, tuple[int, int]] = {}
    problems: dict[str, str] = {}
    for row in rows:
        bot = str(row["id"])
        try:
            config = BotConfig.from_row(row)
            deployment = deploy(replace(config, enabled=wishes.get(bot, config.enabled)), fleet, key)
            owners[bot] = owner_of(deployment)
            deployments[bot] = deployment
        except BadValue as error:
            problems[bot] = str(error)
    base = read_text(home.rendered)
    rendered = {bot: Rendered(s, read_deployment(home, s)) for bot, s in read_rendered(base).items()}
    kept = [rendered[bot].section for bot in problems if bot in rendered]
    file = render(template("program.conf.j2"), deployments.values(), kept, Place(python, home.log))
    return replace(make_plan(deployments, problems, rendered, file, base), owners=owners, key=key)


def write(home: Home, plan: Plan, output: Path | None = None, *, force: bool = False) -> None:
    """Write settings by digest, tokens and live settings, then the file of sections (or ``output``).

    Starts and stops nothing. Killed at any point, supervisord's next start is wholly old or wholly new: the new
    sections appear by one rename, after everything that they name is on disk, and nothing old is removed here.
    Raises Refused when the rendered file changed since the plan was made, or when the plan would remove every bot of
    at least two (without ``force``).
    """
    with translated(), changing(home.state / "render.lock"):
        if read_text(home.rendered) != plan.base:
            raise Refused("what is rendered changed while this was planned: run it again")
        _guard(plan, plan.removed, force)
        home.log.mkdir(mode=0o700, parents=True, exist_ok=True)
        _verify(home, plan)
        write_key(home, plan.key)
        for bot, deployment in plan.deployments.items():
            write_bot(home, deployment, plan.owners[bot])
        target = output or home.rendered
        if target == home.rendered:
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not target.exists() or read_text(target) != plan.file.text:
            replace_file(target, plan.file.text.encode())


def _guard(plan: Plan, removed: Iterable[str], force: bool) -> None:
    removed = tuple(removed)
    if len(removed) >= 2 and not plan.deployments and not plan.kept and not force:
        raise Refused(
            f"the database holds no bot, but {len(removed)} are rendered ({', '.join(removed[:5])}"
            f"{', ...' if len(removed) > 5 else ''}): is it the right database? To remove them all: --yes"
        )


def _verify(home: Home, plan: Plan) -> None:
    """Let supervisor's own parser read the text: it must find exactly what was meant."""
    parsed = {(p.group, p.name, p.command.split()[-1], p.autostart, p.stop_wait_s)
              for p in parse(plan.file.text, home, included=True)}  # fmt: skip
    meant = {(program(s.id), program(s.id), s.digest, s.autostart, s.stop_wait_s)
             for s in read_rendered(plan.file.text).values()}  # fmt: skip
    wanted = set(plan.deployments) | set(plan.kept)
    if parsed != meant or {program(bot) for bot in wanted} != {name for name, *_ in meant}:
        raise MultibotError("supervisor's parser reads the rendered sections differently from what is meant")


def apply(home: Home, plan: Plan, supervisor: Supervisor, *, force: bool = False) -> Applied:
    """Write the plan and let supervisord restart exactly what differs from what it runs.

    Bots that changed are stopped at the same time, each taken back into operation as soon as it has ended. A change
    of ``enabled`` alone starts or stops the bot. Nothing but bots is touched. Files that nothing names any more are
    swept when everything worked. Raises SupervisordAway before anything is written.
    """
    with translated(), changing(home.state / "apply.lock"):
        before = {row["id"]: row for row in supervisor.bots()["bots"]}
        _guard(plan, sorted(set(plan.removed) | (set(before) - set(plan.deployments) - set(plan.kept))), force)
        write(home, plan, force=force)
        sections = read_rendered(plan.file.text)
        failed: dict[str, str] = {}
        turned = _turn(supervisor, before, sections, failed)
        reread = supervisor.reread()
        changed, removed = _bots(reread.changed), _bots(reread.removed)
        _replace(supervisor, changed, removed, sections, failed)
        added = [bot for bot in _bots(reread.added) if _attempt(failed, bot, supervisor.add, program(bot))]
        for bot in turned:  # told to end before everything else: what is left is to wait for the slow ones
            if not sections[bot].autostart:
                _attempt(failed, bot, supervisor.stop, program(bot), sections[bot].stop_wait_s + _STOP_MORE_S)
        if not failed:
            sweep(home, read_rendered(read_text(home.rendered)).values())
        return _outcome(before, sections, {*added, *turned, *changed}, removed, reread, failed)


def _outcome(
    before: Mapping[str, Mapping[str, Any]], sections: Mapping[str, Section], touched: Iterable[str],
    removed: Iterable[str], reread: Reread, failed: Mapping[str, str],
) -> Applied:  # fmt: skip
    """Sort what was touched by what it did and does now."""
    ran = {bot for bot, row in before.items() if row["statename"] not in STOPPED_STATES}
    worked = sorted(bot for bot in touched if bot not in failed)
    names = [*reread.added, *reread.changed, *reread.removed]
    return Applied(
        started=tuple(bot for bot in worked if sections[bot].autostart and bot not in ran),
        restarted=tuple(bot for bot in worked if sections[bot].autostart and bot in ran),
        stopped=tuple(bot for bot in worked if not sections[bot].autostart and bot in ran),
        removed=tuple(bot for bot in removed if bot not in failed),
        foreign=tuple(sorted(set(names) - {program(bot) for bot in _bots(names)})),
        failed=failed,
    )


def _bots(names: Iterable[str]) -> list[str]:
    bots = (bot_of(name) for name in names)
    return sorted(bot for bot in bots if bot is not None and BOT_ID.fullmatch(bot))


def _attempt(failed: dict[str, str], bot: str, order: Any, *arguments: Any) -> bool:
    """Carry out an order for one bot; what supervisord refuses is this bot's failure, not the others'."""
    try:
        order(*arguments)
    except Unreachable:
        raise
    except MultibotError as error:
        failed[bot] = str(error)
        return False
    return True


def _turn(
    supervisor: Supervisor, before: Mapping[str, Mapping[str, Any]], sections: Mapping[str, Section],
    failed: dict[str, str],
) -> list[str]:  # fmt: skip
    """Start or stop the bots whose ``enabled`` changed; supervisord then sees no difference in that line any more."""
    turned = []
    for bot, section in sections.items():
        if bot not in before or before[bot]["enabled"] == section.autostart:
            continue
        supervisor.set_autostart(bot, section.autostart)
        if section.digest != before[bot]["digest"]:
            continue  # replaced as a whole in a moment
        order = supervisor.start if section.autostart else supervisor.stop
        if _attempt(failed, bot, order, program(bot), None):
            turned.append(bot)
    return turned


def _replace(
    supervisor: Supervisor, changed: Iterable[str], removed: Iterable[str], sections: Mapping[str, Section],
    failed: dict[str, str],
) -> None:  # fmt: skip
    """Stop, remove and (those that changed) add again, all at the same time.

    A bot is added as soon as it has ended, so it is never seen stopped for longer than one look.
    """
    open_bots = {bot: True for bot in changed} | {bot: False for bot in removed}
    rows = {row["id"]: row for row in supervisor.bots()["bots"]} if open_bots else {}
    now = time.monotonic()
    deadlines = {bot: now + rows[bot]["stop_wait_s"] + _STOP_MORE_S for bot in open_bots if bot in rows}
    for bot in list(open_bots):
        if not _attempt(failed, bot, supervisor.stop, program(bot), None):
            del open_bots[bot]
    while open_bots:
        rows = {row["id"]: row for row in supervisor.bots()["bots"]}
        for bot, again in list(open_bots.items()):
            gone = bot not in rows
            if gone or rows[bot]["statename"] in STOPPED_STATES:
                if _taken_out(supervisor, bot, failed):
                    del open_bots[bot]
                    if again and bot not in failed:
                        _attempt(failed, bot, supervisor.add, program(bot))
            elif time.monotonic() > deadlines.get(bot, now + _STOP_MORE_S):
                failed[bot] = f"bot {bot!r} is still {rows[bot]['statename']} long after its time to stop"
                del open_bots[bot]
        if open_bots:
            time.sleep(_POLL_S)


def _taken_out(supervisor: Supervisor, bot: str, failed: dict[str, str]) -> bool:
    """Remove a bot that has ended; False when it came back in between (then it is told to stop again)."""
    try:
        supervisor.remove(program(bot))
    except SupervisorFault as fault:
        if fault.code == STILL_RUNNING:
            supervisor.stop(program(bot), None)
            return False
        failed[bot] = str(fault)
    return True


def set_autostart(home: Home, supervisor: Supervisor | None, bot: str, enabled: bool) -> None:
    """Record the wish that ``bot`` runs or does not, without the database: in its section and supervisord's memory.

    Starts and stops nothing. ``supervisor`` None (or one that does not know the bot yet): the file alone, which is
    what supervisord reads when it starts. Raises NoSuchBot when nothing is rendered for the bot; SupervisordAway
    after the file is written.
    """
    with translated(), changing(home.state / "render.lock"):
        text = read_text(home.rendered)
        sections = read_rendered(text)
        changed = with_autostart(text, bot, enabled) if BOT_ID.fullmatch(bot) else None
        if bot not in sections or changed is None:
            raise NoSuchBot(bot, sections)
        if changed != text:
            replace_file(home.rendered, changed.encode())
    if supervisor is not None:
        with contextlib.suppress(NoSuchBot):
            supervisor.set_autostart(bot, enabled)


def not_applied(home: Home, bots: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    """Return the bots that supervisord runs otherwise than rendered; ``bots`` are the rows of getBots."""
    sections = read_rendered(read_text(home.rendered))
    running = {row["id"]: (row["digest"], row["enabled"]) for row in bots}
    wanted = {bot: (section.digest, section.autostart) for bot, section in sections.items()}
    return tuple(sorted(bot for bot in running.keys() | wanted.keys() if running.get(bot) != wanted.get(bot)))
