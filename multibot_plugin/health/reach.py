"""Whether the Bot API servers of deaf bots answer from here: a restart mends no outage, it only ends bots that wait."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import NamedTuple

from multibot_plugin.bots.telegram import answers, shown
from multibot_plugin.errors import MultibotError
from multibot_plugin.health.probes import settings_of
from multibot_plugin.home import Home
from multibot_plugin.workers import Worker

DEADLINE_S = 5.0
AGAIN_S = 60.0  # libraries wait up to 30 s between two attempts: once the server is back, bots hear it by themselves


class _Way(NamedTuple):
    """A server, and the variables of the bot that name proxies."""

    url: str
    proxies: tuple[tuple[str, str], ...]


class Reach:
    """Asks each server once, all side by side, in daemon threads with a deadline."""

    def __init__(self, home: Home, clock: Callable[[], tuple[float, float]]) -> None:
        self._home, self._clock = home, clock
        self._reader = Worker("servers")
        self._workers: dict[_Way, Worker] = {}
        self._away_mono: dict[_Way, float] = {}

    async def away(self, digests: Mapping[str, str]) -> dict[str, str]:
        """Return those of the bots (with their digests) whose server does not answer, or a moment ago did not."""
        try:
            ways = await self._reader.call(lambda: _ways(self._home, digests), DEADLINE_S)
        except Exception:  # no reason not to go on
            return {}
        asked = sorted(set(ways.values()))
        for way in self._workers.keys() - set(asked):
            self._workers.pop(way).close()
        answered = await asyncio.gather(*map(self._answers, asked))
        now = self._clock()[0]
        self._away_mono |= {way: now for way, answer in zip(asked, answered, strict=True) if not answer}
        self._away_mono = {way: mono for way, mono in self._away_mono.items() if now - mono < AGAIN_S}
        return {bot: shown(way.url) for bot, way in ways.items() if way in self._away_mono}

    def close(self) -> None:
        for worker in (self._reader, *self._workers.values()):
            worker.close()

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
