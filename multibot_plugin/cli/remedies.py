"""What to type when something is wrong with a bot: for ``status`` and ``bot show``."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass

from multibot_plugin.cli.fleet import Row, symbol
from multibot_plugin.health.states import Health
from multibot_runner.protocol import FORMS

_CLOSED = re.compile(r"(script|build|working directory|env file|interpreter) (/.+?): Permission denied")
_MISSING = re.compile(r"(script|build) (/.+?): no such file", re.IGNORECASE)
_NO_MODULE = re.compile(r"no module named|has no python-telegram-bot", re.IGNORECASE)
_BESIDE = re.compile(r"FileNotFoundError: .*: '[^/'][^']*'")  # a bot runs from a directory of its own
_NO_VARIABLE = re.compile(r"KeyError: '([A-Z][A-Z0-9_]*)'")
_NEW_TOKEN = "get a new token from @BotFather"  # noqa: S105 - a hint


@dataclass(frozen=True)
class Remedy:
    """Commands as they are typed, one after the other, and in a few words what for ("" where they say it)."""

    commands: tuple[str, ...] = ()
    why: str = ""


def remedy(row: Row, cause: str, command: Callable[[str], str]) -> Remedy:
    """Return what to type about a bot; ``cause``: why it is so; ``command`` makes ``multibot ...`` of a subcommand."""
    bot, state, health = row["id"], row["state"], row["health"]
    if state == "stopped":
        return Remedy((command(f"bot start {bot}"),)) if row["statename"] else Remedy()
    if state == "finished":
        return Remedy((command(f"bot start {bot}"),), "to run it once more")
    if health == Health.CONFLICTED and "webhook" in cause:
        return Remedy((), "it has to call deleteWebhook before it polls, or to receive by webhook (--receives webhook)")
    if health == Health.CONFLICTED:
        return Remedy((), f"another program polls with this token: stop it, or {_NEW_TOKEN}")
    if health == Health.UNAUTHORISED or (state == "quarantined" and "token" in cause):
        return Remedy((command(f"bot set {bot} --token-stdin"),), _NEW_TOKEN)
    if state in ("quarantined", "backing-off"):
        return _start_again(row, cause, command)
    if health == Health.THROTTLED:
        return Remedy((), "nothing to do: it polls again once Telegram's wait is over")
    if health == Health.FROZEN:
        return Remedy((command(f"logs {bot}"), command(f"bot restart {bot}")), "something blocks its event loop")
    if health in (Health.DEAF, Health.DEGRADED):
        return Remedy((command(f"logs {bot}"), command(f"bot show {bot}")))
    return Remedy((command(f"bot show {bot}"),)) if symbol(row) in "▲✖" else Remedy()


def _start_again(row: Row, cause: str, command: Callable[[str], str]) -> Remedy:
    """Return what lets a bot start that does not."""
    bot = row["id"]
    start = command(f"bot restart {bot}")
    if closed := _CLOSED.search(cause):
        if os.geteuid() == 0:  # the words are the bot's: root opens no file that they name
            return Remedy((start,), "once the bot's user may read it")
        right = "o+rx" if closed[1] in ("working directory", "interpreter") else "o+r"
        return Remedy((f"chmod {right} {shlex.quote(closed[2])}", start))
    if _NO_MODULE.search(cause):
        return Remedy((command(f"bot set {bot} --python /path/to/venv/bin/python"),), "an interpreter that has it")
    if _BESIDE.search(cause):
        return Remedy((command(f"bot set {bot} --workdir /path/to/the/folder"),), "where it finds its files")
    if variable := _NO_VARIABLE.search(cause):
        name = variable[1]
        option = f"--token-var {name}" if "TOKEN" in name else f"--env {name}=VALUE"
        return Remedy((command(f"bot set {bot} {option}"),), f"it reads {name} from its environment")
    if (missing := _MISSING.search(cause)) and missing[1] in FORMS:
        place = "/path/to/file.py" if missing[1] == "script" else "/path/to/file.py:function"
        return Remedy((command(f"bot set {bot} --{missing[1]} {place}"),), "where it is now")
    return Remedy((command(f"logs {bot}"), start) if row["state"] == "quarantined" else (command(f"logs {bot}"),))
