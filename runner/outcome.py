"""How a bot ended: makers of ``protocol.Exit``, and the error for what a restart cannot mend."""

from __future__ import annotations

import signal
import time
import traceback
from typing import Optional

from multibot_runner import logs
from multibot_runner.protocol import CRASHED, EXIT_FINAL, FINISHED, MISCONFIGURED, REJECTED, STOPPED, Exit

_LONGEST = 300


class Misconfigured(Exception):
    """A restart cannot help until somebody changes something; the text is one line that says what."""


def misconfigured(text: str) -> Exit:
    return Exit(time.time(), MISCONFIGURED, _line(text), code=EXIT_FINAL)


def rejected(status: int) -> Exit:
    """Telegram answered 401 or 404 to the bot's token."""
    reason = {401: "401 Unauthorized", 404: "404 Not Found"}.get(status, str(status))
    return Exit(time.time(), REJECTED, f"Telegram rejected the token ({reason})", code=EXIT_FINAL)


def stopped(code: Optional[int] = None, signal_number: Optional[int] = None, text: str = "") -> Exit:
    if not text:
        text = f"stopped, ended by {_name(signal_number)}" if signal_number else f"stopped, exit code {code or 0}"
    return Exit(time.time(), STOPPED, text, code=code, signal=signal_number)


def ended(code: int) -> Exit:
    """The bot left by itself with this exit code."""
    if code == 0:
        return Exit(time.time(), FINISHED, "ended by itself, exit code 0", code=0)
    if code == EXIT_FINAL:
        return misconfigured(f"ended by itself, exit code {EXIT_FINAL} (configuration error)")
    return Exit(time.time(), CRASHED, f"ended by itself, exit code {code}", code=code)


def killed(signal_number: int) -> Exit:
    return Exit(time.time(), CRASHED, f"killed by {_name(signal_number)}", signal=signal_number)


def crashed(error: BaseException) -> Exit:
    """The bot's code raised ``error``; the text is the line that Python prints last."""
    lines = traceback.TracebackException(type(error), error, None).format_exception_only()
    text = next((line for line in lines if not line.startswith(" ")), type(error).__name__)
    return Exit(time.time(), CRASHED, _line(text), code=1)


def _line(text: str) -> str:
    first = logs.clean(text.strip().split("\n", 1)[0])
    return first if len(first) <= _LONGEST else first[: _LONGEST - 1] + "…"


def _name(number: Optional[int]) -> str:
    try:
        return signal.Signals(number or 0).name
    except ValueError:
        return f"signal {number}"
