"""The words of an alert, as a person reads them in a chat. Pure."""

from __future__ import annotations

import re
from datetime import datetime

from multibot_plugin.health.states import Health, Level
from multibot_runner.redact import redact

LONGEST = 4000  # Telegram takes 4,096; counted as it does, in UTF-16 units
CRITICAL, WARNING, WELL, STOPPED = "✖", "▲", "●", "○"
MARKS = {Level.CRITICAL: CRITICAL, Level.WARNING: WARNING}
# Texts that begin with one of these continue "<bot> is ...".
_ADJECTIVES = (*map(str, Health), "quarantined", "stopped", "over ", "near ")
# Control characters, the marks that hide or reorder text, and halves of characters, which no encoding can write.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u200b\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]+")


def one_line(text: str, longest: int = LONGEST) -> str:
    """Return ``text`` as one line without control characters in which no token can be read, cut to ``longest``."""
    return cut(" ".join(_UNSAFE.sub(" ", redact(text)).split()), longest)


def cut(text: str, longest: int = LONGEST) -> str:
    """Return ``text``, or its beginning and an ellipsis so that it has at most ``longest`` UTF-16 units."""
    if len(text) * 2 <= longest or _units(text) <= longest:
        return text
    kept = text.encode("utf-16-le")[: (longest - 1) * 2].decode("utf-16-le", errors="ignore")
    return f"{kept}…"


def _units(text: str) -> int:
    return len(text.encode("utf-16-le")) // 2


def duration(seconds: float) -> str:
    """Return a time span for people, in its largest fitting unit: ``47 s``, ``3 min``, ``5 h``, ``12 days``."""
    seconds = max(0.0, seconds)
    for unit, length, upto in (("s", 1, 120), ("min", 60, 7200), ("h", 3600, 172800)):
        if seconds < upto:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds / 86400:.0f} days"


def subject(bot: str, text: str) -> str:
    """Return ``text`` as a sentence about the bot ("" is the monitor itself)."""
    name = bot or "multibot"
    return f"{name} is {text}" if text.startswith(_ADJECTIVES) else f"{name}: {text}"


def opened(bot: str, level: Level, text: str, action: str) -> str:
    """Return the message of an incident that begins; ``action`` is what is done about it ("" nothing)."""
    return _message(MARKS[level], subject(bot, text), action)


def changed(bot: str, level: Level, text: str, action: str) -> str:
    """Return the message of an incident that goes on in another way: a higher level, another action."""
    sentence = subject(bot, text)
    return _message(MARKS[level], sentence.replace(" is ", " is still ", 1) if " is " in sentence else sentence, action)


def resolved(bot: str, check: str, ending: str, lasted_s: float) -> str:
    """Return the message of an incident that is over; ``ending`` is why when the bot is not simply well again."""
    name = bot or "multibot"
    if ending:
        return f"{STOPPED} {name} {ending} ({check} for {duration(lasted_s)})."
    return f"{WELL} {name} is well again after {duration(lasted_s)} ({check})."


def signed(text: str, host: str, since_at: float) -> str:
    """Return a message with its last line, where and since when, cut to what a channel takes."""
    foot = f"\n{one_line(host, 100)} · since {datetime.fromtimestamp(since_at):%H:%M:%S}"
    return cut(text, LONGEST - _units(foot)) + foot


def _message(mark: str, sentence: str, action: str) -> str:
    end = "" if sentence.endswith((".", "!", "?")) else "."
    return " ".join(filter(None, (mark, f"{sentence}{end}", action)))
