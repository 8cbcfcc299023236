"""Stopping one bot for certain: told to end, killed where somebody wants that, and not coming back."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from multibot_plugin.errors import MultibotError
from multibot_plugin.home import Home
from multibot_plugin.supervisor.faults import program
from multibot_runner.protocol import EXIT_FINAL, EXIT_FINISHED
from multibot_runner.readers import read_runs

if TYPE_CHECKING:
    from multibot_plugin.supervisor.client import Supervisor

MORE_S = 15.0  # beyond a bot's own time to stop
_RESPAWN_S = 3.0  # supervisord's next look at a process that ended by itself comes sooner
_PAUSE_S = 0.05
_NOTES_S = 0.5


def stop_for_good(home: Home, supervisor: Supervisor, row: Mapping[str, Any], now: bool) -> None:
    """Stop a bot, also when it has just died and supervisord is about to start it again."""
    deadline, name = None, program(row["id"])
    if now and row["pid"]:
        supervisor.stop(name, None)
        _let_it_note(home, str(row["id"]), row["pid"])
    while True:
        supervisor.stop(name, row["stop_wait_s"] + MORE_S, now=now)
        info = supervisor.info(name)
        if _over(info["statename"], info["exitstatus"]):
            return
        deadline = deadline or time.monotonic() + _RESPAWN_S
        if time.monotonic() > deadline:
            raise MultibotError(f"supervisord keeps it {info['statename']}")
        time.sleep(_PAUSE_S)


def _let_it_note(home: Home, bot: str, pid: int) -> None:
    """Give a runner that is about to be killed a moment to write down that this is a stop: no death, then."""
    until = time.monotonic() + _NOTES_S
    while time.monotonic() < until:
        newest = next(iter(read_runs(home.bot(bot))), None)
        if newest is None or newest.pid != pid or newest.stopping or newest.exit:
            return
        time.sleep(_PAUSE_S / 5)


def _over(statename: str, exit_code: int) -> bool:
    """Whether supervisord will leave a program in this state alone (EXITED with another code means: start it again)."""
    if statename == "EXITED":
        return exit_code in (EXIT_FINAL, EXIT_FINISHED)
    return statename in ("STOPPED", "FATAL", "UNKNOWN")
