"""Asking Telegram (getWebhookInfo) about the bots of which nothing else tells whether updates reach them.

Each about once in ``monitor.probe_s`` (more often while updates wait), spread over that time, a few at once, each in a
daemon thread with a deadline, so that one that hangs costs no other bot anything. What cannot be found out is no
finding: the log says it, once.
"""

from __future__ import annotations

import asyncio
import logging
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from multibot_plugin.bots.config import digest_of
from multibot_plugin.bots.files import read_key
from multibot_plugin.bots.telegram import webhook_info
from multibot_plugin.errors import BadValue, MultibotError
from multibot_plugin.health.rules import Fleet, followed, is_unseen
from multibot_plugin.health.states import Observation, WebhookInfo
from multibot_plugin.home import Home
from multibot_plugin.workers import TooSlow, Worker, ended
from multibot_runner.protocol import BadFile, RunnerSettings, decode, read_file

AT_ONCE = 4
CLOSER = 4  # times as often while updates wait: those of a busy bot become fewer between two looks, once in a while
TIMEOUT_S, DEADLINE_S = 5.0, 15.0
_log = logging.getLogger("multibot.monitor")


@dataclass(frozen=True)
class _Watched:
    """One process of a bot (``pid``, ``digest``), when it is due, and what Telegram said of it last."""

    pid: int | None
    digest: str
    due_mono: float
    info: WebhookInfo | None = None


class Prober:
    """Knows of each bot whose polls are not seen what Telegram said of it last. ``interval_s`` 0: asks nothing."""

    def __init__(self, home: Home, interval_s: float, clock: Callable[[], tuple[float, float]]) -> None:
        self._home, self._interval_s, self._clock = home, interval_s, clock
        self._watched: dict[str, _Watched] = {}
        self._asking: dict[str, asyncio.Task[None]] = {}
        self._hanging: dict[str, Worker] = {}  # their calls were too slow; not asked about until those return
        self._said: dict[str, str] = {}

    def known(self, observation: Observation) -> Observation:
        """Return the observation with what Telegram said of this very process."""
        watched = self._watched.get(observation.bot)
        if watched is None or watched.pid != observation.pid:
            return observation
        return replace(observation, webhook=watched.info)

    def watch(self, observations: Iterable[Observation], fleet: Fleet) -> None:
        """Look after these bots from now on, and begin to ask about those that are due. Called at every tick."""
        if not self._interval_s:
            return
        now, digests = self._clock()[0], {row.id: row.digest for row in fleet.rows}
        before, self._watched = self._watched, {}
        for o in observations:
            if is_unseen(o):
                held = before.get(o.bot)
                if held is None or (held.pid, held.digest) != (o.pid, digests[o.bot]):
                    held = _Watched(o.pid, digests[o.bot], now + self._interval_s * _share(o.bot))
                self._watched[o.bot] = held
        self._said = {bot: text for bot, text in self._said.items() if bot in self._watched}
        self._begin_due()

    async def close(self) -> None:
        await ended(self._asking.values())

    def _begin_due(self) -> None:
        """Ask about the bots that are due longest, a few at once."""
        now = self._clock()[0]
        self._hanging = {bot: worker for bot, worker in self._hanging.items() if worker.busy}
        busy = self._asking.keys() | self._hanging.keys()
        due = sorted((w.due_mono, b) for b, w in self._watched.items() if w.due_mono <= now and b not in busy)
        for _, bot in due[: AT_ONCE - len(self._asking)]:
            self._asking[bot] = asyncio.create_task(self._ask(bot, self._watched[bot]))

    async def _ask(self, bot: str, watched: _Watched) -> None:
        info, worker = watched.info, Worker(f"probe {bot}")
        try:
            answer = await worker.call(lambda: look(self._home, bot, watched.digest, self._clock()[0]), DEADLINE_S)
            info = followed(watched.info, answer)
            self._said.pop(bot, None)
        except (MultibotError, TooSlow) as error:
            self._say(bot, str(error))
        except Exception as error:  # its text may hold the address, token included
            self._say(bot, type(error).__name__)
        finally:
            worker.close()
            self._hanging[bot] = worker
            del self._asking[bot]
        if self._watched.get(bot) == watched:
            pause_s = self._interval_s / (CLOSER if info and info.pending else 1)
            again = max(watched.due_mono + pause_s, self._clock()[0] + pause_s / 2)
            self._watched[bot] = replace(watched, due_mono=again, info=info)
        self._begin_due()

    def _say(self, bot: str, text: str) -> None:
        if text not in self._said.values():  # one line, however many bots a server has that is away
            _log.warning("Telegram was asked about %s: %s", bot, text)
        self._said[bot] = text


def look(home: Home, bot: str, digest: str, now: float) -> WebhookInfo:
    """Return what Telegram says of a bot with the settings it was started with; blocks. Raises MultibotError."""
    settings, token = settings_of(home, bot, digest)
    return webhook_info(token, settings.bot_api_url, settings.webhook_url, settings.env, now, TIMEOUT_S)


def settings_of(home: Home, bot: str, digest: str) -> tuple[RunnerSettings, str]:
    """Return the settings and the token that a bot was started with; blocks. Raises MultibotError.

    The bot owns the file of its settings and may have changed it: what is asked, and where, is what we once wrote.
    """
    paths = home.bot(bot)
    try:
        settings = decode(RunnerSettings, read_file(paths.settings(digest)))
        token = read_file(paths.token(digest)).decode("ascii")
    except (BadFile, UnicodeDecodeError):
        raise BadValue("its settings cannot be read") from None
    if digest_of(settings, token, read_key(home)) != digest:
        raise BadValue("its settings are not those that were rendered")
    return settings, token


def _share(bot: str) -> float:
    """Return a bot's own place (0 to 1) within the interval, the same for every monitor."""
    return zlib.crc32(bot.encode()) / 2**32
