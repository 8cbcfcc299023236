"""How a bot ended: makers of ``protocol.Exit``, and the error for what a restart cannot mend."""

from __future__ import annotations

import builtins
import dataclasses
import os
import signal
import sys
import time
import traceback
from typing import Any, Optional

from multibot_runner import logs
from multibot_runner.protocol import (
    CRASHED,
    EXIT_FINAL,
    EXIT_FINISHED,
    FINISHED,
    GAVE_UP,
    MISCONFIGURED,
    REJECTED,
    STOPPED,
    UNREACHABLE,
    Exit,
)

_LONGEST = 300
_READABLE = 150
_GROUP: Any = getattr(builtins, "BaseExceptionGroup", ())  # of Python 3.11 and later
_LIBRARIES = ("site-packages", "dist-packages")


class Misconfigured(Exception):
    """A restart cannot help until somebody changes something; the text is one line that says what."""


def misconfigured(text: str) -> Exit:
    return Exit(time.time(), MISCONFIGURED, _line(text), code=EXIT_FINAL)


def rejected(status: int) -> Exit:
    """Telegram answered 401 or 404 to the bot's token."""
    reason = {401: "401 Unauthorized", 404: "404 Not Found"}.get(status, str(status))
    return Exit(time.time(), REJECTED, f"Telegram rejected the token ({reason})", code=EXIT_FINAL)


def unreachable(end: Exit) -> Exit:
    """Return an end as that of a bot whose last call nothing answered: a failure is none of its own then."""
    if end.cause != CRASHED or end.signal is not None:
        return end
    return dataclasses.replace(end, cause=UNREACHABLE, text=f"Telegram could not be reached: {end.text}")


def stopped(code: Optional[int] = None, signal_number: Optional[int] = None, text: str = "") -> Exit:
    if not text:
        text = f"stopped, ended by {_name(signal_number)}" if signal_number else f"stopped, exit code {code or 0}"
    return Exit(time.time(), STOPPED, text, code=code, signal=signal_number)


def gave_up(text: str) -> Exit:
    """It died too often, and nobody wants it to be tried again."""
    return Exit(time.time(), GAVE_UP, text, code=EXIT_FINAL)


def under(restart: str, end: Exit) -> Exit:
    """Return an end as the setting ``restart`` has it: with a code after which supervisord starts nothing, or not."""
    failed = end.cause in (CRASHED, UNREACHABLE)
    if failed and end.code == EXIT_FINISHED:  # ours to give: it would be taken for finished
        end = dataclasses.replace(end, code=1)
    if restart == "always" or not (failed or end.cause == FINISHED):
        return end
    if restart == "on-failure" and failed:
        return end
    code = EXIT_FINISHED if end.cause == FINISHED else EXIT_FINAL
    text = end.text if end.cause == FINISHED else f"{end.text}; not started again (restart = {restart})"
    return dataclasses.replace(end, text=text, code=code, signal=None)


def ended(code: int, last_line: str = "") -> Exit:
    """The bot left by itself with this exit code. ``last_line``: of its output."""
    if code == 0:
        return Exit(time.time(), FINISHED, "ended by itself, exit code 0", code=0)
    if code == EXIT_FINAL:
        return misconfigured(f"ended by itself, exit code {EXIT_FINAL} (configuration error)")
    text = _line(f"ended by itself, exit code {code}{f': {last_line}' if last_line else ''}")
    return Exit(time.time(), CRASHED, text, code=code)


def restarted() -> Exit:
    """The bot began itself anew, which counts as any end that nobody asked for: it may do so without a pause."""
    return Exit(time.time(), CRASHED, "restarted itself", code=1)


def killed(signal_number: int, why: str = "") -> Exit:
    text = f"killed by {_name(signal_number)}{f' ({why})' if why else ''}"
    return Exit(time.time(), CRASHED, text, signal=signal_number)


def crashed(error: BaseException) -> Exit:
    """The bot's code raised ``error``; the text is the line that Python prints last, and where that was."""
    while isinstance(error, _GROUP) and len(error.exceptions) == 1:  # asyncio.TaskGroup's, around the one that failed
        error = error.exceptions[0]
    lines = traceback.TracebackException(type(error), error, None).format_exception_only()
    text = next((line for line in lines if not line.startswith(" ")), type(error).__name__)
    text = _line(_brief(error, text))
    memory = "out of memory: " if isinstance(error, MemoryError) else ""
    place = _place(error)
    return Exit(time.time(), CRASHED, f"{memory}{text}{f' ({place})' if place else ''}", code=1)


def _brief(error: BaseException, text: str) -> str:
    """Return ``text``; of a long one (requests puts its whole pool in) its kind and the system's own reason."""
    if len(text) <= _READABLE:
        return text
    root, seen = error, {id(error)}
    while (cause := root.__cause__ or root.__context__) is not None and id(cause) not in seen:
        seen.add(id(cause))
        root = cause
    reason = root.strerror if isinstance(root, OSError) else None
    return f"{text.partition(':')[0]}: {reason}" if reason and reason in text else text


def _place(error: BaseException) -> str:
    """Return ``FILE:LINE`` of the bot's own code: the last there before it went into a library; "" without any."""
    if isinstance(error, SyntaxError) and error.filename and error.lineno:
        return _shown(error.filename, error.lineno)
    places = [(frame.f_code.co_filename, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    own = [(file, line) for file, line in places if _is_the_bots(file)]
    return _shown(*own[-1]) if own else ""


def _shown(file: str, line: int) -> str:
    """Return ``FILE:LINE``, beginning in the folder of the bot's program where it lies below that."""
    folder = os.path.join(sys.path[0], "") if sys.path else ""
    return logs.clean(f"{file.removeprefix(folder)}:{line}")


def _is_the_bots(file: str) -> bool:
    runner, standard = os.path.dirname(os.path.abspath(__file__)), os.path.dirname(os.__file__)
    library = any(f"{os.sep}{name}{os.sep}" in file for name in _LIBRARIES)
    return os.path.isabs(file) and not library and not file.startswith((runner + os.sep, standard + os.sep))


def _line(text: str) -> str:
    first = logs.clean(text.strip().split("\n", 1)[0])
    return first if len(first) <= _LONGEST else first[: _LONGEST - 1] + "…"


def _name(number: Optional[int]) -> str:
    try:
        return signal.Signals(number or 0).name
    except ValueError:
        return f"signal {number}"
