"""What supervisord refuses, in words for people; the names of its programs and what they stand for."""

from __future__ import annotations

import xmlrpc.client
from typing import Any

from multibot_plugin.errors import MultibotError, Unreachable
from multibot_plugin.supervisor.inside.requests import NOT_LOADED, TOO_OLD
from multibot_plugin.supervisor.inside.words import WHERE
from multibot_runner.protocol import PROGRAM_PREFIX

# supervisor.xmlrpc.Faults; not imported, because that module brings supervisor's whole HTTP server along.
UNKNOWN_METHOD, SHUTDOWN_STATE, BAD_NAME, NO_FILE, NOT_EXECUTABLE, FAILED = 1, 6, 10, 20, 21, 30
SPAWN_ERROR, ALREADY_STARTED, NOT_RUNNING, ALREADY_ADDED, CANT_REREAD = 50, 60, 70, 90, 92
RELOAD = "restart it with 'multibot stop && multibot start'"


class SupervisorFault(MultibotError):
    """supervisord understood the call and refused it; ``code`` is its fault code."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.code = code
        if code in (UNKNOWN_METHOD, TOO_OLD, NOT_LOADED):  # it answers, and for us there is nobody
            self.exit_code = Unreachable.exit_code


def program(bot: str) -> str:
    """Return the name of a bot's program."""
    return PROGRAM_PREFIX + bot


def bot_of(name: str) -> str | None:
    """Return the bot of a program's name; None for a program that is not a bot's."""
    return name.removeprefix(PROGRAM_PREFIX) if name.startswith(PROGRAM_PREFIX) else None


def foreign(bot: str) -> str:
    """Return what to say of a bot whose program's name somebody else's program has."""
    return f"supervisord has a program {program(bot)} that is not multibot's"


def refused_where(words: str) -> str:
    """Return `` in section 'x' (file ...)`` out of the parser's message, or nothing: the rest may quote a secret."""
    match = WHERE.search(words)
    if not match:
        return ""
    return f" in section {match[1]!r}" + (f" ({match[2]})" if match[2] else "")


def shown(program: str) -> str:
    bot = bot_of(program)
    return f"bot {bot!r}" if bot else program


def translated(
    fault: xmlrpc.client.Fault, method: str, arguments: tuple[Any, ...], reload: str = RELOAD
) -> SupervisorFault:
    """Return the error for a fault. supervisord's own text is shown only where it cannot hold a value.

    ``reload``: what helps where our plugin is not in it.
    """
    code = fault.faultCode
    name = shown(str(arguments[0])) if arguments else "supervisord"
    if method.startswith("multibot.") and code == UNKNOWN_METHOD:
        text = f"supervisord runs without multibot's plugin (or an older one): {reload}"
    elif code in (TOO_OLD, NOT_LOADED):
        text = fault.faultString.partition(": ")[2]
    elif code == CANT_REREAD:
        text = f"supervisord refuses its configuration{refused_where(fault.faultString)}; everything runs as before"
    elif method.startswith("multibot."):
        text = f"supervisord's multibot plugin refused {method}: {fault.faultString.partition(': ')[2] or code}"
    else:
        words = {
            SHUTDOWN_STATE: "supervisord is shutting down or restarting",
            BAD_NAME: f"supervisord knows no {name}",
            NO_FILE: f"{name}: its program does not exist",
            NOT_EXECUTABLE: f"{name}: its program cannot be executed",
            SPAWN_ERROR: f"{name} could not be started: supervisord's log has the reason",
            ALREADY_STARTED: f"{name} runs already",
            NOT_RUNNING: f"{name} is not running",
        }
        text = words.get(code, f"supervisord refused {method} for {name} (fault {code})")
    return SupervisorFault(text, code)
