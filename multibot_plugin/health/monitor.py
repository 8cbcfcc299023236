"""The monitor: at every tick it looks at the bots, judges, decides, remembers, and only then acts.

Runs in the listener's process (supervisor/listener.py). Everything that may block (supervisord, plugins) is called
in a daemon thread with a deadline. It may be killed at any moment: what was decided stands in the ledger before
anything is done about it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from multibot_plugin.alerts.outbox import Outbox
from multibot_plugin.errors import MultibotError
from multibot_plugin.health.act import Hands
from multibot_plugin.health.incidents import advance, of_bot, open_checks
from multibot_plugin.health.judgement import Judgement, conclude, own_findings, view
from multibot_plugin.health.ledger import Ledger
from multibot_plugin.health.observe import Observer, Supervisor
from multibot_plugin.health.picture import picture
from multibot_plugin.health.recovery import decide
from multibot_plugin.health.replay import Replayer
from multibot_plugin.health.rules import Fleet, read_fleet
from multibot_plugin.health.states import Alert, Observation
from multibot_plugin.hookspecs import MonitorInfo
from multibot_plugin.home import Home
from multibot_plugin.journal import AuditEntry, Journal, JournalError, new_id
from multibot_plugin.plugins import Answer, Plugins, describe
from multibot_plugin.settings import Settings, load
from multibot_plugin.workers import Worker
from multibot_runner.protocol import replace_file

RPC_TIMEOUT_S = 15.0
LEAST_PAUSE_S = 1.0  # between two ticks, however many events come
CHANNELS_EVERY_S = 60.0
GONE_AFTER_S = 15.0  # 'apply' takes a program away and adds it again: only then is a bot removed
ACTOR, DOOR, OWN = "multibot", "monitor", "multibot"
_log = logging.getLogger("multibot.monitor")

Clock = Callable[[], tuple[float, float]]


def clock() -> tuple[float, float]:
    """Return monotonic and wall time."""
    return time.monotonic(), time.time()


class Monitor:
    """One run of the monitor under one set of settings. ``connect`` gives a client of supervisord."""

    def __init__(
        self, home: Home, settings: Settings, plugins: Plugins, connect: Callable[[], Supervisor],
        set_autostart: Callable[[str, bool], None], clock: Clock = clock,
    ) -> None:  # fmt: skip
        self.home, self.settings, self.plugins = home, settings, plugins
        self.host = socket.gethostname()
        self.journal = Journal(home.journal)
        self.replayer = Replayer(home, settings, self.journal)
        self.outbox = Outbox(home.state / "outbox", plugins.send, self._lost, clock)
        self.ledger = Ledger()
        self._clock = clock
        self._connect = connect
        self._supervisor: Supervisor | None = None
        self._eyes = Worker("supervisord")
        self._observer = Observer(home)
        self.hands = Hands(connect, set_autostart, self.record, self.save, clock)
        self._channels: tuple[str, ...] = ()
        self._channels_mono = float("-inf")
        self._seen_mono: dict[str, float] = {}
        self._saved: object = None
        self._troubles: dict[str, str] = {}

    # -- from begin to end --------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Take over what an earlier monitor left: incidents, restarts, alerts and entries that are not handed over."""
        now, now_at = self._clock()
        try:
            self.ledger = Ledger.load(self._ledger_path, now, now_at)
        except ValueError as error:
            _log.error("the monitor's memory cannot be read, it begins anew: %s", describe(error))
        self.hands.ledger = self.ledger
        self.outbox.open()
        plugins = [p.name for p in self.plugins.status() if not p.disabled]
        self.record("monitor.started", None, {"plugins": plugins})
        for plugin in self.plugins.status():
            if plugin.disabled:
                self.record("plugin.disabled", None, {"plugin": plugin.name, "text": plugin.text})

    async def close(self) -> None:
        """Let go of threads and tasks; restarts that are under way are finished by the next monitor."""
        await self.hands.close()
        await self.outbox.close()
        self._eyes.close()
        self.plugins.close()

    # -- one tick ---------------------------------------------------------------------------------------------

    async def tick(self) -> None:
        """Look, judge, decide, remember, act. Raises MultibotError when supervisord does not answer."""
        now, now_at = self._clock()
        fleet = await self._look()
        observations = self._observer.look(fleet, (now, now_at), lambda bot: open_checks(self.ledger.tracks, bot))
        before = {p.name for p in self.plugins.status() if p.disabled}
        answers = await self.plugins.check(observations)
        judgement = self._judge(observations, answers, now, now_at)
        self._tell_of_disabled(before)
        self.ledger.tracks = judgement.tracks
        self.ledger.alerts.extend(judgement.alerts)
        self.ledger.entries.extend(judgement.entries)
        for decision in judgement.restarts:
            self.hands.intend(decision, now, now_at)
        self.save()
        self._hand_over()
        self.hands.act(fleet, now, now_at)
        await self._refresh_channels(now)
        self._write_picture(observations, now, now_at)

    async def _look(self) -> Fleet:
        def ask() -> Mapping[str, object]:
            if self._supervisor is None:
                self._supervisor = self._connect()
            return self._supervisor.bots()

        try:
            return read_fleet(await self._eyes.call(ask, RPC_TIMEOUT_S))
        except ValueError as error:
            raise MultibotError(str(error)) from error

    def _judge(self, observations: list[Observation], answers: list[Answer], now: float, now_at: float) -> Judgement:
        views = view(observations, answers, self.plugins.watching())
        views.append(own_findings(self.plugins.status(), self._troubles))
        self._seen_mono.update({o.bot: now for o in observations})
        views.extend(self._absent({v.bot for v in views}, now))
        step = advance(self.ledger.tracks, views, self.plugins.watching() | {OWN}, now, now_at)
        decisions = [
            decide(o, of_bot(step.tracks, o.bot), self.hands.restarts_mono(o.bot), self.hands.busy(o.bot))
            for o in observations
        ]
        return conclude(step, decisions, self.host, now, now_at)

    def _absent(self, present: set[str], now: float) -> list[object]:
        raise NotImplementedError
