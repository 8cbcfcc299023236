"""The monitor: at every tick it looks at the bots, judges, decides, remembers, and only then acts.

Runs in the listener's process (supervisor/listener.py). supervisord, the look at the bots' files and processes, and
plugins are called in daemon threads with a deadline. The monitor's own small files (ledger, outbox, journal) are
written on the event loop, which stands still for as long as the disk takes, and for LOCK_PATIENCE_S at most where
another process holds the journal's lock. It may be killed at any moment: what was decided stands in the ledger
before anything is done about it.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from multibot_plugin.alerts.outbox import Outbox, OutboxError
from multibot_plugin.bots.conform import Applied
from multibot_plugin.bots.unfinished import under_way
from multibot_plugin.errors import MultibotError
from multibot_plugin.health.absence import absence
from multibot_plugin.health.act import Hands
from multibot_plugin.health.incidents import advance, of_bot, open_checks
from multibot_plugin.health.judgement import ACTOR, DOOR, OWN, Judgement, absent, conclude, ending, own_findings, view
from multibot_plugin.health.ledger import MOST_UNSAID, Ledger
from multibot_plugin.health.observe import Observer, Supervisor
from multibot_plugin.health.old_logs import remove_old
from multibot_plugin.health.picture import SCHEMA, bot_picture, deliveries_picture, incidents_picture, plugins_picture
from multibot_plugin.health.probes import Prober
from multibot_plugin.health.reach import Reach
from multibot_plugin.health.recovery import Decision, Outage, decide, hold_back, is_for_deafness, unanswered
from multibot_plugin.health.replay import Replayer
from multibot_plugin.health.rules import Fleet, is_coming_up, read_fleet
from multibot_plugin.health.states import Alert, Observation
from multibot_plugin.home import Home
from multibot_plugin.journal import AuditEntry, Journal, JournalError, new_id
from multibot_plugin.plugins import Answer, Plugins, describe
from multibot_plugin.settings import Settings
from multibot_plugin.supervisor.parent import sender
from multibot_plugin.workers import Worker
from multibot_runner.protocol import replace_file

RPC_TIMEOUT_S = 15.0
LOOK_TIMEOUT_S = 30.0
LOCK_PATIENCE_S = 0.5
CHANNELS_EVERY_S = 60.0
LOGS_EVERY_S = 600.0
GONE_AFTER_S = 15.0  # 'apply' takes a program away and adds it again: only then is a bot removed
_log = logging.getLogger("multibot.monitor")


def clock() -> tuple[float, float]:
    """Return monotonic and wall time."""
    return time.monotonic(), time.time()


class Monitor:
    """One run of the monitor under one set of settings. ``connect`` gives a client of supervisord.

    ``astray`` says which bots were taken away past multibot (bots/astray.py).
    """

    def __init__(
        self, home: Home, settings: Settings, plugins: Plugins, connect: Callable[[], Supervisor],
        set_autostart: Callable[[str, bool], None], clock: Callable[[], tuple[float, float]] = clock,
        finish: Callable[[], Applied | None] = lambda: None,
        astray: Callable[[frozenset[str]], str] = lambda known: "",
    ) -> None:  # fmt: skip
        self.home, self.settings, self.plugins = home, settings, plugins
        self.host = socket.gethostname()
        self.journal = Journal(home.journal, patience_s=LOCK_PATIENCE_S)
        self.replayer = Replayer(home, settings, self.journal)
        self.outbox = Outbox(home.state / "outbox", plugins.send, self._lost, clock)
        self._clock = clock
        self._astray = astray
        self._connect = connect
        self._supervisor: Supervisor | None = None
        self._answer: Mapping[str, Any] | None = None
        self._eyes = Worker("eyes")
        self._observer = Observer(home)
        self._prober = Prober(home, settings["monitor.probe_s"], clock)
        self._channels: dict[str, str] = {}
        self._channels_mono = self._logs_mono = float("-inf")
        self._saved: object = None
        self._coming_up = False
        self.ledger = self._load()
        told = self.ledger.tracks.get(("", "telegram"))
        self._troubles = {"telegram": told.finding.text} if told else {}
        self._reach = Reach(home, clock, {bot for (bot, _), track in self.ledger.tracks.items() if track.quiet})
        self._seen_mono = dict.fromkeys((bot for bot, _ in self.ledger.tracks), clock()[0])
        self.hands = Hands(
            self.ledger, self.journal, connect, set_autostart, self.settle, self.host, lambda: under_way(home), finish
        )  # fmt: skip

    def begin(self) -> None:
        """Begin to deliver what an earlier monitor left, tell when there was none, and record who watches."""
        self.outbox.open()
        if (told := absence(self.home, self.settings["monitor.tick_s"], self.host, *self._clock())) is not None:
            _log.error("%s", told[0].text.splitlines()[0])
            self.ledger.alerts.append(told[0])
            self.ledger.entries.append(told[1])
        status = self.plugins.status()
        self.record("monitor.started", {"plugins": [p.name for p in status if not p.disabled]})
        self._record_disabled(set())

    @property
    def waiting(self) -> bool:
        """Whether the next look should come soon."""
        return self._coming_up or self.hands.waiting

    async def close(self) -> None:
        """Let go of threads and tasks; restarts that are under way are finished by the next monitor."""
        await self.hands.close()
        await self._prober.close()
        await self._reach.close()
        await self.outbox.close()
        if self._supervisor is not None:
            self._supervisor.close()
        self._eyes.close()
        self.plugins.close()

    async def tick(self) -> None:
        """Look, judge, decide, remember, act. Raises MultibotError when supervisord does not answer."""
        now, now_at = self._clock()
        fleet = await self._ask()
        observations = await self._look(fleet, (now, now_at))
        self._coming_up = any(map(is_coming_up, observations))
        if not fleet.running:  # everything ends: nothing of that is to be judged, told or undone
            self.hands.act(fleet, now, now_at)
            self._write_picture(observations, now, now_at)
            return
        self._prober.watch(observations, fleet)
        await self._look_for_lost(fleet)
        disabled = {p.name for p in self.plugins.status() if p.disabled}
        answers = await self.plugins.check(observations)
        self._record_disabled(disabled)
        judgement = await self._judge(fleet, observations, answers, now, now_at)
        self.ledger.tracks = judgement.tracks
        self.ledger.prune(now)
        self.ledger.alerts.extend(judgement.alerts)
        self.ledger.entries.extend(judgement.entries)
        for decision in judgement.restarts:
            self.hands.intend(decision, now, now_at)
        self.settle()
        self.hands.act(fleet, now, now_at)
        if now - self._channels_mono >= CHANNELS_EVERY_S:
            self._channels, self._channels_mono = await self.plugins.channels(), now
        if now - self._logs_mono >= LOGS_EVERY_S:
            self._logs_mono = now
            await self._remove_old_logs(fleet, now_at)
        self._write_picture(observations, now, now_at)

    def record(self, action: str, detail: Mapping[str, Any], bot: str | None = None) -> None:
        """Add something that the monitor did to what goes into the audit log with the next tick."""
        self.ledger.entries.append(AuditEntry(new_id(), self._clock()[1], ACTOR, DOOR, bot, action, detail, self.host))

    def settle(self) -> None:
        """Save the ledger, then hand over its alerts and entries to outbox and journal; what fails waits in it."""
        self._save()
        try:
            self.outbox.spool(self.ledger.alerts, self.plugins.senders())
            self._troubles.pop("outbox", None)
        except OutboxError as error:  # they are sent all the same
            self._trouble("outbox", str(error))
        self.ledger.alerts.clear()
        try:
            self.journal.append(*self.ledger.entries)
            self.replayer.nudge()
            self.ledger.entries.clear()
            self._troubles.pop("journal", None)
        except JournalError as error:
            self._trouble("journal", str(error))
            del self.ledger.entries[:-MOST_UNSAID]
        self._save()

    async def _look(self, fleet: Fleet, at: tuple[float, float]) -> list[Observation]:
        tracks = self.ledger.tracks  # replaced at a tick, never changed
        look = partial(self._observer.look, fleet, at, lambda bot: open_checks(tracks, bot))
        seen = await self._eyes.call(look, LOOK_TIMEOUT_S)
        self.ledger.entries += [ending(*news, self.host) for news in self._observer.news()]
        if "status" in self._troubles:  # nor can the bots write there: what they said last is no sign of anything
            seen = [replace(o, heartbeat=None, blind=True) for o in seen]
        return [self._prober.known(o) for o in seen]

    async def _look_for_lost(self, fleet: Fleet) -> None:
        known = frozenset(row.id for row in fleet.rows)
        try:
            lost = await self._eyes.call(lambda: self._astray(known), LOOK_TIMEOUT_S)
        except Exception as error:  # no reason not to judge
            lost = f"what is rendered cannot be looked at: {describe(error)}"
        if lost:
            self._trouble("rendered", lost)
        else:
            self._troubles.pop("rendered", None)

    async def _remove_old_logs(self, fleet: Fleet, now_at: float) -> None:
        remove = partial(remove_old, self.home, self.settings["log_keep_s"], now_at, [row.id for row in fleet.rows])
        try:
            removed = await self._eyes.call(remove, LOOK_TIMEOUT_S)
        except Exception as error:  # no reason not to go on
            self._trouble("logs", f"old logs cannot be removed: {describe(error)}")
            return
        self._troubles.pop("logs", None)
        if removed:
            _log.info("older than log_keep_s and removed: %s", ", ".join(removed))

    async def _ask(self) -> Fleet:
        def ask() -> Mapping[str, Any]:
            if self._supervisor is None:
                self._supervisor = self._connect()
            return self._supervisor.bots(self._answer)

        try:
            answer = await self._eyes.call(ask, RPC_TIMEOUT_S)
            fleet, self._answer = read_fleet(answer), answer
            return fleet
        except ValueError as error:
            raise MultibotError(str(error)) from error

    async def _judge(
        self, fleet: Fleet, observations: Sequence[Observation], answers: Sequence[Answer], now: float, now_at: float
    ) -> Judgement:
        watching = self.plugins.watching()
        views = view(observations, answers)
        views.append(own_findings(self.plugins.status(), self._troubles))
        self._seen_mono.update({v.bot: now for v in views})
        self._seen_mono = {bot: mono for bot, mono in self._seen_mono.items() if now - mono < GONE_AFTER_S}
        views.extend(absent(self._seen_mono.keys() - {v.bot for v in views}, watching))
        step = advance(self.ledger.tracks, views, watching | {OWN}, now, now_at)
        decisions = [
            decide(o, of_bot(step.tracks, o.bot), [r.mono for r in self.hands.restarts(o.bot)], self.hands.busy(o.bot))
            for o in observations
        ]
        decisions = hold_back(decisions, await self._ask_servers(fleet, decisions))
        return conclude(step, decisions, self.host, now, now_at)

    async def _ask_servers(self, fleet: Fleet, decisions: Sequence[Decision]) -> Mapping[str, Outage]:
        """Return the deaf bots whose server does not answer, and which; asked before one of them is told or restarted.

        An outage that was told is over when its server answers, whatever became of the bots meanwhile.
        """
        deaf, away = {d.bot for d in decisions if is_for_deafness(d)}, {}
        if deaf or "telegram" in self._troubles:
            away = await self._reach.away({row.id: row.digest for row in fleet.rows if row.id in deaf})
        if text := unanswered(away):
            self._trouble("telegram", text)
        elif not self._reach.silent and all(outage.answers is not None for outage in away.values()):
            self._troubles.pop("telegram", None)
        return away

    def _write_picture(self, observations: Sequence[Observation], now: float, now_at: float) -> None:
        tracks = self.ledger.tracks
        document = {
            "schema": SCHEMA, "host": self.host, "supervisord": sender(), "pid": os.getpid(), "at": now_at, "mono": now,
            "tick_s": self.settings["monitor.tick_s"],
            "database": {"ok": self.replayer.ok, "text": self.replayer.text},
            "channels": list(self._channels.values()),
            "deliveries": deliveries_picture(self.outbox.deliveries(), self._channels),
            "plugins": plugins_picture(self.plugins.status()), "incidents": incidents_picture(tracks, self._told),
            "bots": {o.bot: bot_picture(o, tracks, [r.at for r in self.hands.restarts(o.bot)]) for o in observations},
        }  # fmt: skip
        try:
            replace_file(self.home.status, json.dumps(document).encode(), fsync=False)
            self._troubles.pop("status", None)
        except OSError as error:
            self._trouble("status", f"{self.home.status} cannot be written: {error.strerror}")

    def _told(self, incident: str) -> list[str]:
        """Return where an open incident was told."""
        return [where for name, where in self._channels.items() if not self.outbox.holds(name, incident)]

    def _load(self) -> Ledger:
        try:
            return Ledger.load(self.home.state / "monitor.json", *self._clock())
        except ValueError as error:
            _log.error("the monitor's memory cannot be read, it begins anew: %s", describe(error))
            return Ledger()

    def _save(self) -> None:
        # Texts change at every tick; what a next monitor has to know does not.
        tracks = [
            (k, t.level, t.said, t.quiet, t.changes, t.since, t.critical_since, t.pid)
            for k, t in self.ledger.tracks.items()
        ]
        ids = [*(a.id for a in self.ledger.alerts), *(e.id for e in self.ledger.entries)]
        content = (tracks, ids, {bot: list(some) for bot, some in self.ledger.restarts.items()})
        if content == self._saved:
            return
        try:
            self.ledger.save(self.home.state / "monitor.json")
            self._saved = content
            self._troubles.pop("memory", None)
        except OSError as error:
            self._trouble("memory", f"the monitor's memory cannot be written: {error.strerror}")

    def _trouble(self, check: str, text: str) -> None:
        if self._troubles.get(check) != text:
            _log.error("%s", text)
        self._troubles[check] = text

    def _record_disabled(self, before: set[str]) -> None:
        for plugin in self.plugins.status():
            if plugin.disabled and plugin.name not in before:
                self.record("plugin.disabled", {"plugin": plugin.name, "text": plugin.text})

    def _lost(self, channel: str, alert: Alert, why: str) -> None:
        _log.error("an alert was not sent by %s and is given up (%s): %s", channel, why, alert.text)
        self.record("alert.lost", {"channel": channel, "alert": alert.id, "reason": why}, alert.bot or None)
