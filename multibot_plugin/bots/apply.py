"""The one place that acts: from rows to a plan, from a plan to files, from files to supervisord."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from multibot_plugin.bots.config import BotConfig, Deployment, deploy
from multibot_plugin.bots.conform import Applied, conform, differing
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
from multibot_plugin.bots.leftovers import check_terminal, end_left
from multibot_plugin.bots.plan import Plan, Rendered, make_plan
from multibot_plugin.bots.render import Place, read_rendered, render, split_sections, with_autostart
from multibot_plugin.bots.unfinished import Whose, Work, working
from multibot_plugin.errors import BadValue, MultibotError, NoSuchBot, Refused, Unreachable
from multibot_plugin.home import Home
from multibot_plugin.journal import AuditEntry, Journal, JournalError, new_id
from multibot_plugin.settings import Settings
from multibot_plugin.supervisor.client import STOPPED_STATES, Supervisor
from multibot_plugin.supervisor.conf import parse, template
from multibot_plugin.supervisor.faults import foreign, program
from multibot_runner.protocol import BOT_ID, replace_file

_NOBODY = Whose("multibot", "apply")


def load(
    home: Home, fleet: Settings, rows: Iterable[Mapping[str, Any]], python: str = sys.executable,
    taken: Collection[str] = (),
) -> Plan:  # fmt: skip
    """Return the plan from what is rendered to ``rows`` (store.fetch_bots), without writing anything.

    A row that cannot be used becomes a problem of that bot. A wish that waits in the journal counts as if the
    database had it already. ``python`` is multibot's interpreter. ``taken``: ids that programs of somebody else have in
    supervisord, which a section of that name would replace; a bot of such an id is not rendered.
    """
    key, wishes = read_key(home), Journal(home.journal).wishes()
    deployments: dict[str, Deployment] = {}
    owners: dict[str, tuple[int, int]] = {}
    problems: dict[str, str] = {}
    ports: dict[int, str] = {}
    for row in rows:
        bot = str(row["id"])
        if bot in taken:
            problems[bot] = f"{foreign(bot)}: rename that, or '{home.command(f'bot delete {bot}')}'"
            continue
        try:
            config = BotConfig.from_row(row)
            deployment = deploy(replace(config, enabled=wishes.get(bot, config.enabled)), fleet, key)
            owners[bot] = owner_of(deployment)
            check_terminal(home.bot(bot), owners[bot][0])
            port = deployment.settings.port
            if port and (other := ports.setdefault(port, bot)) != bot:
                raise BadValue(f"bot {bot!r}: port {port} is already the port of {other!r}: give it another one")
            deployments[bot] = deployment
        except (BadValue, Refused) as error:
            problems[bot] = str(error)
    base = read_text(home.rendered)
    rendered = {
        bot: Rendered(s, read_deployment(home, s)) for bot, s in read_rendered(base).items() if bot not in taken
    }
    kept = [rendered[bot].section for bot in problems if bot in rendered]
    place = Place(python, home.log, home.variables if home.foreign else {})
    file = render(template("program.conf.j2"), deployments.values(), kept, place)
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
    """Let supervisor's own parser read what is new in the text: it must find exactly what was meant."""
    sections, was = read_rendered(plan.file.text), read_rendered(plan.base)
    anew = [section for bot, section in sections.items() if bot not in was or was[bot].text != section.text]
    text = "\n\n".join(section.text for section in anew)
    parsed = {(p.group, p.name, p.command.split()[-1], p.autostart, p.stop_wait_s)
              for p in (parse(text, home, included=True) if anew else ())}  # fmt: skip
    meant = {(program(s.id), program(s.id), s.digest, s.autostart, s.stop_wait_s) for s in anew}
    wanted = {*plan.deployments, *plan.kept}
    if parsed != meant or {*sections} != wanted or len(split_sections(plan.file.text)) != len(wanted):
        raise MultibotError("supervisor's parser reads the rendered sections differently from what is meant")


def apply(
    home: Home, plan: Plan, supervisor: Supervisor, *, force: bool = False, whose: Whose = _NOBODY
) -> Applied:  # fmt: skip
    """Write the plan and let supervisord restart exactly what differs from what it runs.

    Bots that changed are stopped at the same time, each taken back into operation as soon as it has ended. A change
    of ``enabled`` alone starts or stops the bot, and one that is enabled but stands still is started, unless an
    operator may have stopped it a moment ago. Nothing but bots is touched. Files that nothing names any more are
    swept, but for bots that failed. ``whose`` command this is: should it be killed or fail in the middle, somebody else
    finishes it; what an earlier one has left is finished now. Of a plan for some bots only (plan.narrowed) all others
    stay as they are. Raises SupervisordAway before anything is written.
    """
    with working(home) as work:
        answer = supervisor.bots()
        before = {row["id"]: row for row in answer["bots"]}
        if taken := sorted(plan.deployments.keys() & set(answer.get("foreign", ()))):
            raise Refused(f"{foreign(taken[0])}: run it again")  # since this was planned
        _guard(plan, sorted(set(plan.removed) | (set(before) - set(plan.deployments) - set(plan.kept))), force)
        sections = read_rendered(plan.file.text)
        only = None if plan.only is None else plan.only | work.left.keys()
        was = read_rendered(plan.base)
        written = {bot for bot, section in sections.items() if bot in was and was[bot].text != section.text}
        due = differing(before, sections) | written
        work.note(due if only is None else due & only, whose)
        write(home, plan, force=force)
        with _failing(supervisor, work, answer):
            applied = conform(home, supervisor, answer, sections, work.left, written, only=only)
        work.keep(_down(supervisor, work, answer, applied.failed))
        for bot in applied.removed:
            end_left(home, bot)
        for bot in applied.stopped:
            end_left(home, bot, partial(supervisor.running, program(bot)))
        with changing(home.state / "render.lock"):  # nobody writes files now that nothing names yet
            named = [*sections.values(), *read_rendered(read_text(home.rendered)).values()]
            sweep(home, named, only, spare=applied.failed)
        _close(home, work, applied)
        others = {*before} - {
            *applied.started,
            *applied.restarted,
            *applied.stopped,
            *applied.standing,
            *applied.failed,
        }
        return replace(applied, rendered_again=tuple(bot for bot in plan.added if bot in others))


def finish(home: Home, supervisor: Supervisor) -> Applied | None:
    """Bring the bots that a command has left, killed or failing in the middle, to what is rendered.

    None: there are none, or somebody else has the lock, whose work it is then. A bot that ``failed`` and stands still
    stays noted.
    """
    try:
        with working(home, wait_s=0.0) as work:
            if not work.left:
                return None
            answer, sections = supervisor.bots(), read_rendered(read_text(home.rendered))
            with _failing(supervisor, work, answer):
                applied = conform(home, supervisor, answer, sections, work.left, only=work.left)
            work.keep(_down(supervisor, work, answer, applied.failed))
            _close(home, work, applied)
            return applied
    except Refused:
        return None


@contextlib.contextmanager
def _failing(supervisor: Supervisor, work: Work, answer: Mapping[str, Any]) -> Iterator[None]:
    """After an error in the middle of the orders only bots that stand still for it stay noted."""
    try:
        yield
    except Unreachable:
        raise
    except MultibotError:
        work.keep(_down(supervisor, work, answer, work.noted))
        raise


def _down(
    supervisor: Supervisor, work: Work, answer: Mapping[str, Any], failed: Collection[str]
) -> frozenset[str]:  # fmt: skip
    """Return which of ``failed`` stand still, or are about to, because of us or of those who left them so.

    ``answer``: what supervisord said before. Those that run, whoever started them, are nobody's unfinished work: the
    next stop of an operator is heeded.
    """
    ran = {row["id"] for row in answer["bots"] if row["statename"] not in (*STOPPED_STATES, "STOPPING")}
    ours = frozenset(failed) & {*work.left, *ran}
    if not ours:
        return ours
    try:
        rows = supervisor.bots()["bots"]
    except MultibotError:
        return ours
    return ours & {row["id"] for row in rows if row["enabled"] and row["statename"] in ("STOPPED", "STOPPING")}


def _close(home: Home, work: Work, applied: Applied) -> None:
    """Leave a record, in the name of those whose commands were cut off, of what was finished for them."""
    doings = {
        "bot.restarted": (*applied.started, *applied.restarted),
        "bot.stopped": (*applied.stopped, *applied.removed),
    }
    detail = {"cut off": "finished by multibot: its command was killed, or failed"}
    entries = [
        AuditEntry(new_id(), time.time(), work.left[bot].actor, work.left[bot].door, bot, action, detail)
        for action, bots in doings.items()
        for bot in bots
        if bot in work.left
    ]
    with contextlib.suppress(JournalError):  # a full disk must not keep a bot down
        Journal(home.journal).append(*entries)


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
    return tuple(sorted(differing({row["id"]: row for row in bots}, read_rendered(read_text(home.rendered)))))


def rendered_uids(home: Home) -> dict[str, int]:
    """Return the user ids of their own that bots are rendered with, by bot."""
    found = {}
    for bot, section in read_rendered(read_text(home.rendered)).items():
        deployment = read_deployment(home, section)
        if deployment is not None and deployment.settings.uid is not None and not deployment.settings.user:
            found[bot] = deployment.settings.uid
    return found
