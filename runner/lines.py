"""What stands in a bot's log: each line behind its time, none glued to another stream's, no flood. Pure."""

from __future__ import annotations

import json
import re
import time
from typing import Dict, List, Optional, Set, Tuple

STAMPED, PLAIN, JSON = "stamped", "plain", "json"  # RunnerSettings.log_format
BURST_S = 10.0  # what may be logged at once is what the rate allows in this time; a gap is told as often

_PARTS = re.compile(rb"[^\n]*\n|[^\n]+")
_TIME = re.compile(rb"[\[(]?(\d{4})[-/](\d\d)[-/](\d\d)[ T](\d\d):(\d\d):(\d\d)"
                   rb"(?:(?:[.,]\d+)?(?:(Z)|([+-])([01]\d):?([0-5]\d)(?!\d)))?")  # fmt: skip
_A_TIME = b"2000-01-01 00:00:00"
_NEAR_S = 60.0  # a line that begins with a time further from now does not begin with its own
_LONGEST = 16 * 1024  # an unfinished line of the form json becomes an object at this length


class Lines:
    """Makes the log of one process from the pieces that its streams write.

    ``form``: one of RunnerSettings.log_format; ``rate``: bytes per second, 0 without a limit. A partial line is passed
    on at once, but for the form json, whose objects are whole, and for what may become the time of the line. Somebody's
    date (a message that is printed, a logger in another zone) is no time of the line: whoever reads the log goes by it.
    """

    def __init__(self, form: str, rate: int = 0) -> None:
        self.form = form
        self._throttle = Throttle(rate) if rate else None
        self._open = ""  # the stream whose unfinished line the log ends with
        self._held: Dict[str, bytearray] = {}
        self._holding = True
        self._cut: Set[str] = set()  # streams of which the beginning of a line was dropped
        self._split: Set[str] = set()  # streams of the form json whose last object is a line without its end

    def feed(self, stream: str, data: bytes, now: float, stamp: str) -> bytes:
        """Return what to write for this piece. ``now`` is CLOCK_MONOTONIC, ``stamp`` the time as the form shows it."""
        held = self._held.setdefault(stream, bytearray())
        held += data
        cut = self._ready(stream, held)
        piece = bytes(held[:cut])
        del held[:cut]
        out: List[bytes] = []
        for part in _PARTS.findall(piece):
            admitted, told = True, ""
            if self._throttle is not None:
                admitted, told = self._admits(self._throttle, stream, part, len(part) + len(stamp), now)
            if told:
                out.append(self.say(told, stamp))
            if admitted:
                out.append(self._framed(stream, part, stamp))
        return b"".join(out)

    def say(self, text: str, stamp: str) -> bytes:
        """Return a line of the runner itself; nothing throttles it."""
        end, self._open = b"\n" if self._open else b"", ""
        return end + self._framed("stderr", f"multibot: {text}\n".encode("utf-8", "backslashreplace"), stamp)

    def release(self, now: float, stamp: str) -> bytes:
        """Return what is held back and what was not told yet, and hold nothing back from now on.

        An unfinished line ends here, but in the form plain: the next run's first would be glued to it.
        """
        self._holding = False
        out = [self.feed(stream, b"", now, stamp) for stream in list(self._held)]
        told = self._throttle.tell(now) if self._throttle is not None else ""
        if told:
            out.append(self.say(told, stamp))
        if self._open and self.form != PLAIN:
            out.append(b"\n")
            self._open = ""
        return b"".join(out)

    def forget(self) -> None:
        """Drop what is held and counted (in a forked child: it is the parent's)."""
        self._held.clear()
        if self._throttle is not None:
            self._throttle.tell(0.0)

    def _ready(self, stream: str, held: bytearray) -> int:
        """Return how much of what is held can go on."""
        if not self._holding or self.form == PLAIN:
            return len(held)
        start = held.rfind(b"\n") + 1
        if self.form == JSON:
            return start or (_before_character(held) if len(held) > _LONGEST else 0)
        begins = start > 0 or self._open != stream
        return start if begins and _may_become_time(held[start:]) else len(held)

    def _admits(self, throttle: Throttle, stream: str, part: bytes, size: int, now: float) -> Tuple[bool, str]:
        ends = part.endswith(b"\n")
        if stream in self._cut:  # the rest of a line whose beginning was dropped is no line
            if ends:
                self._cut.discard(stream)
            throttle.drop(part, now)
            return False, ""
        admitted, told = throttle.admit(part, size, now)
        if not (admitted or ends):
            self._cut.add(stream)
        return admitted, told

    def _framed(self, stream: str, part: bytes, stamp: str) -> bytes:
        if self.form == JSON:
            if stream in self._split and not part.strip(b"\r\n"):  # the end of a line that was told is no line
                self._split.discard(stream)
                return b""
            (self._split.discard if part.endswith(b"\n") else self._split.add)(stream)
            line = part.rstrip(b"\r\n").decode("utf-8", "backslashreplace")
            return json.dumps({"at": stamp, "stream": stream, "line": line}, ensure_ascii=False).encode() + b"\n"
        goes_on = self._open == stream
        end = b"\n" if self._open and not goes_on else b""
        self._open = "" if part.endswith(b"\n") else stream
        if self.form == PLAIN or goes_on or _has_time(part, stamp):
            return end + part
        return end + stamp.encode() + b" " + part


class Throttle:
    """A token bucket of BURST_S. When it is empty a gap begins, in which everything is dropped.

    The gap ends when for about a second less has come than the rate allows (so that the last words of a bot are seen),
    else after BURST_S.
    """

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._level = self._most = rate * BURST_S
        self._at: Optional[float] = None
        self._since: Optional[float] = None  # of the gap, or of what was not told of it yet
        self._dropped_at = 0.0
        self._calm = 0.0  # what the rate would have allowed of late and was not used
        self._lines = self._bytes = 0

    def admit(self, part: bytes, size: int, now: float) -> Tuple[bool, str]:
        """Return whether this may be logged (it takes ``size`` bytes there), and what has to be said before it.

        What may not is counted.
        """
        gain = (now - self._at) * self._rate if self._at is not None else 0.0
        self._at = now
        self._level = min(self._most, self._level + gain)
        if self._since is None:
            if self._level > 0:
                self._level -= size
                return True, ""
            self._since, self._calm = now, 0.0
            self.drop(part, now)
            return False, f"more is written than log_rate {_size(self._rate, '')}/s: lines are left out from here on"
        self._calm += gain
        long = now - self._since >= BURST_S
        if self._level > 0 and (long or self._calm >= self._rate):
            told, self._since = self.tell(now), None
            self._level -= size
            return True, told
        self._calm = max(0.0, self._calm - size)
        told = self.tell(now) if long else ""
        self.drop(part, now)
        return False, told

    def drop(self, part: bytes, now: float) -> None:
        """Count what is not logged."""
        self._dropped_at = now
        self._bytes += len(part)
        self._lines += part.endswith(b"\n")

    def tell(self, now: float) -> str:
        """Return what was dropped since this was last asked ("": nothing), and count anew."""
        if not self._bytes:
            return ""
        lines, size, since = max(1, self._lines), self._bytes, self._since
        self._lines = self._bytes = 0
        seconds = 1
        if since is not None:
            seconds, self._since = max(1, round(self._dropped_at - since)), now  # the silence after it is no flood
        noun = "line" if lines == 1 else "lines"
        rate = _size(self._rate, "")
        return f"{lines:,} {noun} ({_size(size, ' ')}) not logged in {seconds} s: more than log_rate {rate}/s"


def _size(value: int, space: str) -> str:
    for unit, factor in (("MB", 1024**2), ("KB", 1024)):
        if value >= factor:
            amount = f"{value / factor:.1f}"
            return f"{amount[:-2] if amount.endswith('.0') else amount}{space}{unit}"
    return f"{value}{space}B"


def _has_time(part: bytes, stamp: str) -> bool:
    """Whether a line begins with the time at which it is written."""
    own = _moment(part)
    now = None if own is None else _moment(stamp.encode())
    return own is not None and now is not None and abs(own - now) <= _NEAR_S


def _moment(text: bytes) -> Optional[float]:
    """Return the time that a text begins with, a local one where it says no zone.

    datetime is half a megabyte more in each bot's process.
    """
    match = _TIME.match(text)
    if match is None:
        return None
    year, month, day, hour, minute, second = map(int, match.groups()[:6])
    utc, sign, hours, minutes = match.groups()[6:]
    try:
        moment = time.mktime((year, month, day, hour, minute, second, 0, 0, -1))
        if utc or sign:
            east = 0 if utc else int(sign + b"1") * (3600 * int(hours) + 60 * int(minutes))
            moment += time.localtime(moment).tm_gmtoff - east
    except (ValueError, OverflowError):  # no calendar has it
        return None
    return moment


def _may_become_time(begun: bytearray) -> bool:
    """Whether the time of a line may begin with this, and is not whole yet."""
    bare = bytes(begun[1:] if begun.startswith((b"[", b"(")) else begun)
    return bool(begun) and len(bare) < len(_A_TIME) and _TIME.match(bare + _A_TIME[len(bare) :]) is not None


def _before_character(data: bytearray) -> int:
    """Return where to cut without cutting the last character in two."""
    cut = len(data)
    while cut > len(data) - 4 and data[cut - 1] & 0xC0 == 0x80:
        cut -= 1
    return cut - 1 if data[cut - 1] >= 0xC0 else cut
