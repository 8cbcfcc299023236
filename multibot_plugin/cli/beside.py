"""The commands for an installation in an operator's own supervisord: ``init --into``, and what ``start`` and ``stop``
do otherwise there. Nothing here starts, ends or writes anything that is the operator's."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from multibot_plugin.cli.output import say, show
from multibot_plugin.errors import BadValue, Refused, SupervisordAway
from multibot_plugin.home import Home, into
from multibot_plugin.supervisor.beside import (
    Part,
    cannot_import,
    interpreter,
    other_user,
    own_supervisord,
    parts,
    to_paste,
)
from multibot_plugin.supervisor.client import MONITOR, POSTGRES, STOPPED_STATES, Supervisor
from multibot_plugin.supervisor.faults import BAD_NAME, SupervisorFault, program
from multibot_plugin.supervisor.inside.refusing import too_old

_STOP_MORE_S = 15.0


def move(home: Home, file: Path) -> Home:
    """Return the home for ``init --into FILE``.

    Raises BadValue for a file that cannot serve, Refused for a supervisord that cannot, and while our programs run in
    another one.
    """
    if file in (home.config / "supervisord.conf", home.config.resolve() / "supervisord.conf"):
        raise BadValue(f"{file} is this installation's own: --into is for the configuration of another supervisord")
    moved = home if home.foreign == file else into(home, file)
    assert moved.main_file is not None
    moved.main_file.socket()
    lives = moved.main_file.sections.get("rpcinterface:multibot", {}).get("state", str(home.state))
    if lives != str(home.state):
        raise Refused(f"{file}: the installation with its state in {lives} lives there, and there is room for one")
    if moved is not home and home.digest_key.is_file() and (running := _running(home)):
        raise Refused(f"{running} runs in the supervisord of {home.supervisord_conf}: '{home.command('stop')}' first")
    with Supervisor.of(moved) as supervisor:
        if supervisor.alive():
            _check_suitable(moved, supervisor)
            # Who pastes and restarts without it has no supervisord any more: one that cannot load us does not start.
            if reason := cannot_import(interpreter(supervisor)):
                raise _refused(moved, reason)
    return moved


def _check_suitable(home: Home, supervisor: Supervisor) -> None:
    """Raise Refused for a supervisord that cannot run our programs; SupervisordAway."""
    if reason := too_old(supervisor.supervisor_version()):
        raise _refused(home, reason)
    if reason := other_user(supervisor):
        raise Refused(reason)


def _refused(home: Home, reason: str) -> Refused:
    there = "or install that there (the package supervisor-multibot)"
    return Refused(f"{reason}: run it as '{own_supervisord(home)}', {there}")


def _running(home: Home) -> str:
    """Return one of our programs that runs now, nothing when none does."""
    try:
        with Supervisor.of(home) as supervisor:
            bots = [program(row["id"]) for row in supervisor.bots()["bots"]]
            for name in (MONITOR, POSTGRES, *bots):
                if _state(supervisor, name) not in STOPPED_STATES:
                    return name
    except (SupervisordAway, SupervisorFault):
        pass
    return ""


def _state(supervisor: Supervisor, name: str) -> str:
    try:
        return str(supervisor.info(name)["statename"])
    except SupervisorFault as fault:
        if fault.code != BAD_NAME:
            raise
        return "STOPPED"


def lacking(home: Home) -> list[Part]:
    """Return what the operator's file does not hold yet, or not rightly; nothing where there is no such file."""
    return [part for part in parts(home) if part.problem] if home.foreign else []


def show_lacking(home: Home, lacks: list[Part], quiet: bool) -> None:
    """Print what is to be put into the file (``quiet``: only tell), and say what comes then.

    Standard output begins with an empty line: it can be appended to a file whose last line has no end.
    """
    say(f"{home.foreign}, which multibot never writes, lacks:")
    for part in lacks:
        say(f"  [{part.section}] {part.problem}")
    text, file = to_paste(lacks).rstrip(), shlex.quote(str(home.foreign))
    if text:
        say(f"Put this at its end ('{home.command('init')} >> {file}' does that), or in place of what is there:")
    if text and not quiet:
        show(f"\n{text}")
        say("")
    if any(part.to_mend for part in lacks):
        say(f"Mend the lines that are wrong, then see what comes next: {home.command('init')}")
        return
    for line in next_steps(home, lacks):
        say(f"Then: {line}")


def next_steps(home: Home, lacked: list[Part]) -> Iterator[str]:
    """Yield what to type once the operator's file holds what it ``lacked``."""
    sections = {part.section.partition(":")[0] for part in lacked}
    try:
        with Supervisor.of(home) as supervisor:
            supervisor.version()
            loaded = True
    except SupervisordAway:
        yield f"{own_supervisord(home)}  (or its service, if its interpreter can import multibot; it does not run now)"
        loaded, sections = True, set()
    except SupervisorFault:
        loaded = False
    if not loaded or "rpcinterface" in sections:  # read by nothing else
        yield f"{home.to_restart}  (or its service; this restarts all its programs once)"
    elif "eventlistener" in sections:
        yield home.supervisorctl(f"update {MONITOR}")
    yield home.command("start")


def check_ready(home: Home, supervisor: Supervisor) -> None:
    """Raise what keeps our programs from running in the operator's supervisord, as one line with what to do."""
    _check_suitable(home, supervisor)
    for part in lacking(home):
        hint = "" if part.to_mend else f": '{home.command('init')}' shows what belongs there"
        text = f"{home.foreign}: [{part.section}] {part.problem}{hint}"
        if part.blocks:
            raise Refused(text)
        say(f"warning: {text}")
    supervisor.version()


def take_postgres(supervisor: Supervisor) -> None:
    """Let supervisord run the embedded database as its section says, which may be new, changed or gone."""
    reread = supervisor.reread()
    if POSTGRES in (*reread.changed, *reread.removed):
        supervisor.stop(POSTGRES)
        supervisor.remove(POSTGRES)
    if POSTGRES in (*reread.changed, *reread.added):
        supervisor.add(POSTGRES)


def stop_ours(home: Home, supervisor: Supervisor, rows: list[dict[str, Any]], now: bool) -> None:
    """Stop what is ours, the bots at the same time, and leave supervisord to its operator.

    The monitor is first: it would take the stop of a bot for somebody's wish. The database is last.
    """
    _halt(supervisor, MONITOR)
    for row in rows:
        supervisor.stop(program(row["id"]), None, now=now)
    for row in rows:
        supervisor.stop(program(row["id"]), row["stop_wait_s"] + _STOP_MORE_S)
    _halt(supervisor, POSTGRES)


def _halt(supervisor: Supervisor, name: str) -> None:
    try:
        supervisor.stop(name)
    except SupervisorFault as fault:
        if fault.code != BAD_NAME:  # there is no such program in this installation
            raise
