"""Alerts on their way: one small file per alert and channel, removed once the channel has it.

A channel that fails is tried again with growing pauses for 24 hours; one channel never waits for another, and of
one incident the messages keep their order. A crash between sending and removing sends twice, never not at all.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import quote, unquote

from multibot_plugin.errors import MultibotError
from multibot_plugin.health.states import Alert
from multibot_plugin.plugins import SendFailed
from multibot_plugin.shapes import build
from multibot_plugin.workers import ended
from multibot_runner.protocol import BadFile, decode_object, read_file, replace_file

KEPT_S = 86400.0
LONGEST_PAUSE_S = 600.0
PER_CHANNEL = 500
_PROBE_SIZE = 4096
_LEAST_TRIES = 10  # a clock that jumps a day ahead must not empty the outbox
_log = logging.getLogger("multibot.outbox")

Send = Callable[[str, Alert], Awaitable[bool | None]]
Lost = Callable[[str, Alert, str], None]


class OutboxError(MultibotError):
    """The outbox cannot be written: a full disk, a missing right."""


@dataclass
class Parcel:
    """One alert for one channel. ``due``: monotonic time of the next try."""

    path: Path
    channel: str
    alert: Alert
    tries: int = 0
    due: float = 0.0


@dataclass(frozen=True)
class Delivery:
    """How a channel does: ``waiting`` alerts, and why its last try failed ("" when it did not)."""

    channel: str
    waiting: int
    failure: str


def pause_s(tries: int) -> float:
    """Return the wait after so many failed tries: 2, 4, 8 ... up to ten minutes."""
    return min(2.0 ** min(tries, 20), LONGEST_PAUSE_S)


class Outbox:
    """The outbox in ``directory``. ``send`` offers an alert to a channel (raises SendFailed); ``lost`` is told of an
    alert that is given up: channel, alert, why. ``clock`` gives monotonic and wall time.
    """

    def __init__(self, directory: Path, send: Send, lost: Lost, clock: Callable[[], tuple[float, float]]) -> None:
        self._directory = directory
        self._send = send
        self._lost = lost
        self._clock = clock
        self._parcels: dict[str, list[Parcel]] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._news: dict[str, asyncio.Event] = {}
        self._failures: dict[str, str] = {}
        self._number = 0
        self._failing = False

    def open(self) -> None:
        """Read what an earlier monitor left, and begin to deliver it."""
        for path in sorted(self._directory.glob("*.json")) if self._directory.is_dir() else []:
            with contextlib.suppress(ValueError):
                self._number = max(self._number, int(path.name.partition("-")[0]))
            try:
                parcel = _read(path)
            except (OSError, ValueError, BadFile):
                _log.error("%s is not an alert: set aside", path)
                with contextlib.suppress(OSError):
                    path.rename(path.with_suffix(".bad"))
                continue
            self._parcels.setdefault(parcel.channel, []).append(parcel)
        for channel in self._parcels:
            self._deliver_soon(channel)

    def spool(self, alerts: Iterable[Alert], channels: Iterable[str]) -> None:
        """Put alerts into the outbox for every channel; those that are in it already stay as they are.

        Raises OutboxError as long as it cannot be written: a full disk must not silence an alert, so all of them are
        delivered nevertheless, but what waits is lost with this process.
        """
        names, error = tuple(channels), None
        for alert in alerts:
            for channel in names:
                waiting = self._parcels.setdefault(channel, [])
                if not any(p.alert.id == alert.id for p in waiting):
                    self._number += 1
                    path = self._directory / f"{self._number:012d}-{quote(channel, safe='')}.json"
                    waiting.append(Parcel(path, channel, alert))
                    error = self._write(path, json.dumps(asdict(alert)).encode()) or error
                    self._make_room(channel)
                    self._deliver_soon(channel)
        if self._failing and error is None:
            probe = self._directory / "probe"
            error = self._write(probe, b" " * _PROBE_SIZE)
            if error is None:
                probe.unlink(missing_ok=True)
        self._failing = error is not None
        if error is not None:
            raise OutboxError(f"{self._directory}: the outbox cannot be written: {error.strerror}") from error

    def waiting(self) -> int:
        """Return how many parcels wait."""
        return sum(len(parcels) for parcels in self._parcels.values())

    def deliveries(self) -> list[Delivery]:
        """Return how every channel does that has had an alert since ``open``."""
        return [Delivery(c, len(self._parcels[c]), self._failures.get(c, "")) for c in sorted(self._parcels)]

    def holds(self, channel: str, incident: str) -> bool:
        """Whether an alert of this incident still waits for the channel."""
        return any(p.alert.incident == incident for p in self._parcels.get(channel, ()))

    async def close(self) -> None:
        """Stop delivering; what waits stays on the disk."""
        await ended(self._tasks.values())

    def _write(self, path: Path, data: bytes) -> OSError | None:
        """Write a file; return why that cannot be done."""
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            replace_file(path, data)
        except OSError as error:
            return error
        return None

    def _make_room(self, channel: str) -> None:
        waiting = self._parcels[channel]
        while len(waiting) > PER_CHANNEL:
            self._give_up(waiting[0], f"more than {PER_CHANNEL} wait for this channel")

    def _deliver_soon(self, channel: str) -> None:
        self._news.setdefault(channel, asyncio.Event()).set()
        if channel not in self._tasks:
            self._tasks[channel] = asyncio.create_task(self._deliver(channel), name=f"outbox {channel}")

    async def _deliver(self, channel: str) -> None:
        news = self._news[channel]
        while True:
            news.clear()
            now = self._clock()[0]
            ready = self._ready(channel)
            due = next((p for p in ready if p.due <= now), None)
            if due is None:
                pause = min((p.due - now for p in ready), default=None)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await news.wait()
                continue
            try:
                await self._try(due)
            except Exception:  # a bug here must not end the deliveries of this channel
                _log.exception("delivering an alert to %s", channel)
                due.due = self._clock()[0] + LONGEST_PAUSE_S

    def _ready(self, channel: str) -> list[Parcel]:
        """Return the oldest waiting parcel of each incident."""
        first: dict[str, Parcel] = {}
        for parcel in self._parcels[channel]:
            first.setdefault(parcel.alert.incident, parcel)
        return list(first.values())

    async def _try(self, parcel: Parcel) -> None:
        try:
            await self._send(parcel.channel, parcel.alert)
        except SendFailed as error:
            if self._failures.get(parcel.channel) != str(error):  # else every try of every alert would be a line
                _log.warning("channel %s: alerts wait: %s", parcel.channel, error)
            self._failures[parcel.channel] = str(error)
            now, now_at = self._clock()
            parcel.tries += 1
            parcel.due = now + pause_s(parcel.tries)
            if now_at - parcel.alert.at > KEPT_S and parcel.tries >= _LEAST_TRIES:
                self._give_up(parcel, str(error))
        else:
            self._remove(parcel)
            if self._failures.pop(parcel.channel, None):  # it is back: the rest at once, the oldest first
                rest = self._parcels[parcel.channel]
                _log.warning("channel %s: it takes alerts again, %d wait for it", parcel.channel, len(rest))
                for waiting in rest:
                    waiting.due = 0.0

    def _give_up(self, parcel: Parcel, why: str) -> None:
        self._remove(parcel)
        self._lost(parcel.channel, parcel.alert, why)

    def _remove(self, parcel: Parcel) -> None:
        # Out of memory first: a file that cannot be removed must not be sent over and over.
        if parcel in self._parcels[parcel.channel]:
            self._parcels[parcel.channel].remove(parcel)
        try:
            parcel.path.unlink(missing_ok=True)
        except OSError as error:
            _log.error("%s cannot be removed (it will be sent again): %s", parcel.path, error.strerror)


def _read(path: Path) -> Parcel:
    alert = read_alert(decode_object(read_file(path)))
    return Parcel(path, unquote(path.stem.partition("-")[2]), alert)


def read_alert(item: dict[str, object]) -> Alert:
    """Return the alert that ``dataclasses.asdict`` made ``item`` from; raises ValueError."""
    return build(Alert, item)
