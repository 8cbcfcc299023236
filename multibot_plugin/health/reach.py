"""Whether the Bot API servers of deaf bots answer from here: a restart mends no outage, it only ends bots that wait."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from multibot_plugin.bots.telegram import answers, shown
from multibot_plugin.errors import MultibotError
from multibot_plugin.health.probes import settings_of
from multibot_plugin.health.recovery import Outage
from multibot_plugin.home import Home
from multibot_plugin.workers import Worker, ended

DEADLINE_S = 5.0
_PATIENCE_S = 0.5  # of a tick
_STALE_S = 30.0  # nobody asked for so long
# Libraries wait up to a minute between two attempts, and a poll without an update is answered after 50 s: once the
# server is back, bots hear it by themselves.
AGAIN_S = 120.0


class _Way(NamedTuple):
    """A server, and the variables of the bot that name proxies."""

    url: str
    proxies: tuple[tuple[str, str], ...]


class Reach:
    """Asks servers, all side by side, in daemon threads with a deadline; nobody waits for one that hangs.

    ``held``: bots that an earlier monitor left alone because of an outage.
    """

    def __init__(self, home: Home, clock: Callable[[], tuple[float, float]], held: Iterable[str] = ()) -> None:
        self._home, self._clock = home, clock
        self._reader = Worker("servers")
        self._workers: dict[_Way, Worker] = {}
        self._asking: dict[_Way, asyncio.Task[bool]] = {}
        self._answered: dict[_Way, bool] = {}  # the last answer
        self._away_mono: dict[_Way, float] = {}
        self._held = set(held)
        self._begun_mono = self._last_mono = clock()[0]

    async def away(self, digests: Mapping[str, str]) -> dict[str, Outage]:
        """Return those of the bots (with their digests) whose server does not answer, or did not within AGAIN_S."""
        try:
            ways = await self._reader.call(lambda: _ways(self._home, digests), DEADLINE_S)
        except Exception:  # no reason not to go on
            return {}
        now = self._clock()[0]
        self._forget(now)
        asked = set(ways.values()) | self._away_mono.keys()  # those of an outage also when no bot is deaf just now
        await self._ask(asked)
        self._away_mono |= {ways[bot]: self._begun_mono for bot in self._held & ways.keys()}
        self._held -= ways.keys()
        self._away_mono |= {way: now for way in asked if self._answered.get(way) is False}
        self._away_mono = {way: mono for way, mono in self._away_mono.items() if now - mono < AGAIN_S}
        return {
            bot: Outage(shown(way.url), self._answered.get(way))
            for bot, way in ways.items()
            if way in self._away_mono or way not in self._answered
        }

    @property
    def silent(self) -> bool:
        """Whether a server that was away still does not answer, whoever asks."""
        return any(self._answered.get(way) is not True for way in self._away_mono)

    async def close(self) -> None:
        await ended(self._asking.values())
        for worker in (self._reader, *self._workers.values()):
            worker.close()

    def _forget(self, now: float) -> None:
        """Take no answer of an earlier outage for today's."""
        if now - self._last_mono > _STALE_S:
            self._answered.clear()
            self._asking = {way: task for way, task in self._asking.items() if not task.done()}
        self._last_mono = now

    async def _ask(self, ways: set[_Way]) -> None:
        """Ask those that are not being asked, and take what is answered by and by."""
        for way in self._workers.keys() - ways - self._asking.keys():
            self._workers.pop(way).close()
            self._answered.pop(way, None)
        for way in ways - self._asking.keys():
            self._asking[way] = asyncio.create_task(self._answers(way))
        if self._asking:
            await asyncio.wait(self._asking.values(), timeout=_PATIENCE_S)
        for way in [way for way, task in self._asking.items() if task.done()]:
            self._answered[way] = self._asking.pop(way).result()

    async def _answers(self, way: _Way) -> bool:
        worker = self._workers.setdefault(way, Worker(f"reach {shown(way.url)}"))
        try:
            return await worker.call(lambda: answers(way.url, dict(way.proxies), DEADLINE_S), DEADLINE_S)
        except Exception:  # too slow, or the call before has not come back
            return False


def _ways(home: Home, digests: Mapping[str, str]) -> dict[str, _Way]:
    """Return how each bot reaches its server; one whose settings cannot be read is left out."""
    ways = {}
    for bot, digest in digests.items():
        try:
            settings, _ = settings_of(home, bot, digest)
        except MultibotError:
            continue
        proxies = sorted((name, value) for name, value in settings.env.items() if name.lower().endswith("_proxy"))
        ways[bot] = _Way(settings.bot_api_url, tuple(proxies))
    return ways
