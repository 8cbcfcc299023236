"""The monitor, tick by tick: real files, real plugins, real journal; supervisord answers as the real one does."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator, Collection, Mapping
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from supervisor.states import ProcessStates
from watched import NOW, NOW_AT, PID, Clock, FakeSupervisor, finding, heartbeat, point, process, until

from multibot_hooks import alive, memory, polling
from multibot_plugin.bots.conform import Applied
from multibot_plugin.bots.unfinished import Whose, restarting
from multibot_plugin.errors import MultibotError, NoSuchBot, SupervisordAway
from multibot_plugin.health import monitor as module
from multibot_plugin.health import observe, watch
from multibot_plugin.health.absence import note_stop
from multibot_plugin.health.act import restart_bot
from multibot_plugin.health.monitor import GONE_AFTER_S, LOGS_EVERY_S, Monitor
from multibot_plugin.health.recovery import Outage
from multibot_plugin.home import Home, find_home
from multibot_plugin.hookspecs import Alert, MonitorInfo, Observation, hookimpl
from multibot_plugin.journal import AuditEntry, Journal, JournalError, Wish
from multibot_plugin.plugins import FAILURES_ALLOWED, Plugins
from multibot_plugin.settings import load
from multibot_plugin.supervisor.inside.rows import Seen, bot_row
from multibot_runner.protocol import BotPaths, encode, replace_file


class Place:
    """A home whose monitor can be killed and begun anew."""

    def __init__(self, directory: Path) -> None:
        self.home = find_home(str(directory))
        for path in (self.home.state, self.home.run, self.home.log):
            path.mkdir(parents=True)
        self.clock = Clock()
        self.supervisor = FakeSupervisor(self.clock)
        self.autostart: list[tuple[str, bool]] = []
        self.alerts: list[Alert] = []
        self.points = [point("polling", polling), self.channel()]
        self.monitors: list[Monitor] = []
        self.finishing: Applied | Exception | None = None
        self.finished = 0
        self.lost: str | Exception = ""

    def channel(self) -> Any:
        def multibot_send_alert(alert: Alert) -> bool:
            self.alerts.append(alert)
            return True

        return point("chat", SimpleNamespace(multibot_send_alert=hookimpl(multibot_send_alert)))

    def set_autostart(self, bot: str, enabled: bool) -> None:
        self.autostart.append((bot, enabled))
        if bot not in self.supervisor.processes:
            raise NoSuchBot(bot)
        self.supervisor.processes[bot].config.autostart = enabled

    def finish(self) -> Applied | None:
        """Finish what a killed command was doing; ``finishing`` says what becomes of it."""
        self.finished += 1
        if isinstance(self.finishing, Exception):
            raise self.finishing
        return self.finishing

    def astray(self, known: frozenset[str]) -> str:
        """Say which bots were taken away past multibot: what ``lost`` says."""
        if isinstance(self.lost, Exception):
            raise self.lost
        return self.lost

    async def monitor(self) -> Monitor:
        """Begin a monitor; an earlier one is left as a killed one leaves everything."""
        settings = load(self.home.toml, environ={})
        plugins = await Plugins.load(lambda name: MonitorInfo("h", settings.values, {}), 20, self.points)
        made = Monitor(self.home, settings, plugins, lambda: self.supervisor, self.set_autostart, self.clock,
                       self.finish, self.astray)  # fmt: skip
        self.monitors.append(made)
        made.begin()
        return made

    def bot(self, name: str = "greeter", live: dict[str, Any] | None = None, **changes: Any) -> Any:
        """Make a bot known to supervisord, with its settings on disk."""
        self.supervisor.processes[name] = process(**changes)
        paths = self.home.bot(name)
        paths.state_dir.mkdir(parents=True, exist_ok=True)
        paths.run_dir.mkdir(parents=True, exist_ok=True)
        paths.live.write_text(json.dumps({"launch": "script", "start_grace_s": 0.0, **(live or {})}))
        return self.supervisor.processes[name]

    def beat(self, name: str = "greeter", **changes: Any) -> None:
        """Write the heartbeat of the bot's process of now; it polled a moment ago unless told otherwise."""
        pid = self.supervisor.processes[name].pid
        polled = {"pid": pid, "poll_success_mono": self.clock.mono - 1, **changes}
        replace_file(self.home.bot(name).heartbeat, encode(heartbeat(**polled)), fsync=False)

    def told(self) -> list[str]:
        return [a.text.splitlines()[0] for a in self.alerts]

    def journalled(self) -> list[AuditEntry | Wish]:
        """Return what was journalled, and take it away."""
        journal, found = Journal(self.home.journal), []
        while (batch := journal.pending()) is not None:
            found.extend(batch.entries)
            journal.done(batch)
        return found

    def actions(self) -> list[str]:
        return [e.action for e in self.journalled() if isinstance(e, AuditEntry)]

    def status(self) -> Any:
        return json.loads(self.home.status.read_text())


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    made = Place(tmp_path / "home")
    yield made
    for monitor in made.monitors:
        await monitor.close()


async def idle(monitor: Monitor) -> None:
    """Wait until the monitor's acts and deliveries are over."""
    await until(lambda: not monitor.hands.acting and monitor.outbox.waiting() == 0)


async def tick(place: Place, monitor: Monitor, after_s: float = 5.0) -> None:
    place.clock.forward(after_s)
    await monitor.tick()
    await idle(monitor)


async def test_a_deaf_bot_is_told_about_once_restarted_and_told_about_when_it_is_well(place: Place) -> None:
    place.bot()
    monitor = await place.monitor()
    place.beat()
    await tick(place, monitor)
    assert place.told() == []
    assert place.status()["bots"]["greeter"]["health"] == "healthy"

    place.clock.forward(50)
    await tick(place, monitor)
    assert place.told() == ["✖ greeter is deaf: no successful getUpdates for 61 s. Restarting it (1 of 3 this hour)."]
    assert place.supervisor.calls == [("stop", "bot-greeter"), ("start", "bot-greeter")]
    assert place.status()["bots"]["greeter"]["health"] == "deaf"

    await tick(place, monitor)  # the new process has not said anything yet
    place.beat(start_mono=place.clock.mono, poll_success_mono=None)
    await tick(place, monitor)
    assert len(place.alerts) == 1
    assert [i["check"] for i in place.status()["incidents"]] == ["deaf"]
    place.beat(start_mono=place.clock.mono)
    await tick(place, monitor)
    assert place.told()[1:] == ["● greeter is well again after 76 s (deaf)."]
    await tick(place, monitor)
    assert len(place.alerts) == 2
    assert place.actions() == ["monitor.started", "incident.opened", "bot.restarted", "incident.resolved"]
    assert place.status()["incidents"] == []
    assert place.status()["bots"]["greeter"]["restarts_24h"] == 1


class Servers:
    """Stands for ``Reach``: ``outage`` is that of every server."""

    outage: Outage | None = Outage("http://127.0.0.1:9")
    held: Collection[str] = ()

    @property
    def silent(self) -> bool:
        return self.outage is not None and self.outage.answers is False

    async def away(self, digests: Mapping[str, str]) -> dict[str, Outage]:
        return dict.fromkeys(digests, self.outage) if self.outage else {}

    async def close(self) -> None:
        """There are no threads."""


async def test_while_the_server_does_not_answer_that_is_told_and_no_deaf_bot_is_restarted(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reach(home: Home, clock: object, held: Collection[str]) -> Servers:
        servers.held = held
        return servers

    monkeypatch.setattr(module, "Reach", reach)
    servers = Servers()
    for name in ("greeter", "dice"):
        place.bot(name)
        place.beat(name, poll_success_mono=place.clock.mono - 50)
    monitor = await place.monitor()
    for _ in range(3):
        await tick(place, monitor)
    away = "Telegram (http://127.0.0.1:9) does not answer: 2 bots cannot poll"
    assert place.told() == [f"✖ multibot: {away}."]  # once, for all bots
    assert {i["check"] for i in place.status()["incidents"]} == {"deaf", "telegram"}
    monitor = await place.monitor()
    assert set(servers.held) == {"greeter", "dice"}
    for _ in range(2):  # nothing is over because another monitor watches
        await tick(place, monitor)
    for name in ("greeter", "dice"):  # nor because the bots were restarted in the middle of it
        place.beat(name, start_mono=place.clock.mono, poll_success_mono=None)
    for _ in range(2):
        await tick(place, monitor)
    assert place.told() == [f"✖ multibot: {away}."]
    for name in ("greeter", "dice"):
        place.beat(name, poll_success_mono=place.clock.mono - 75)
    servers.outage = Outage("http://127.0.0.1:9", answers=True)
    for _ in range(2):
        await tick(place, monitor)
    assert place.told()[1:] == ["● multibot is well again after 35 s (telegram)."]
    assert place.supervisor.calls == []
    servers.outage = None
    place.beat("dice")
    await tick(place, monitor)
    assert place.supervisor.calls == [("stop", "bot-greeter"), ("start", "bot-greeter")]
    assert place.told()[2:] == [
        "✖ greeter is deaf: no successful getUpdates for 90 s. Restarting it (1 of 3 this hour)."
    ]


async def test_the_budget_ends_the_restarts_and_the_last_word_is_said_once(place: Place) -> None:
    place.bot(live={"restart_budget": 2})
    monitor = await place.monitor()
    for _ in range(6):
        place.beat(start_mono=place.clock.mono - 100, poll_success_mono=None)
        await tick(place, monitor, 60)
    ends = [text.partition(". ")[2] for text in place.told()]
    assert ends == ["Restarting it (1 of 2 this hour).", "Restarting it (2 of 2 this hour).",
                    "Not restarting it: the budget of 2 restarts per hour is used up."]  # fmt: skip
    assert [c for c, _ in place.supervisor.calls] == ["stop", "start"] * 2
    assert [e.action for e in place.journalled() if isinstance(e, AuditEntry)].count("bot.restarted") == 2


async def test_a_jump_of_the_wall_clock_means_nothing(place: Place) -> None:
    place.bot()
    monitor = await place.monitor()
    for jump in (1e6, -2e6):
        place.clock.wall += jump
        place.beat()
        await tick(place, monitor)
    assert place.told() == []
    assert place.autostart == []


async def test_that_nobody_watched_is_told_and_recorded_once(place: Place) -> None:
    await tick(place, await place.monitor())
    place.clock.forward(65)
    monitor = await place.monitor()
    await tick(place, monitor)
    await tick(place, await place.monitor())
    assert place.told() == [
        "▲ multibot: nobody watched the bots for 65 s: the monitor hung or was away. It watches again."
    ]
    assert place.alerts[0].text.endswith(f" · since {datetime.fromtimestamp(NOW_AT + 5):%H:%M:%S}")
    (away,) = [e for e in place.journalled() if isinstance(e, AuditEntry) and e.action == "monitor.away"]
    assert (away.bot, away.detail) == (None, {"lasted_s": "65"})


@pytest.mark.parametrize("why", ["a moment", "stopped on purpose", "another supervisord", "an unreadable picture"])
async def test_that_nobody_watched_is_not_told_when_that_is_as_it_should_be(place: Place, why: str) -> None:
    await tick(place, await place.monitor())
    place.clock.forward(15 if why == "a moment" else 65)
    if why == "stopped on purpose":
        note_stop(place.home)
    elif why == "another supervisord":
        place.home.status.write_text(json.dumps({**place.status(), "supervisord": "h/another boot/1/2"}))
    elif why == "an unreadable picture":
        place.home.status.write_text("{")
    await tick(place, await place.monitor())
    assert place.told() == []
    place.clock.forward(65)  # one stop on purpose excuses one absence
    await tick(place, await place.monitor())
    assert len(place.told()) == 1


async def test_a_monitor_killed_after_it_decided_is_finished_by_the_next(place: Place) -> None:
    place.bot()
    killed = await place.monitor()
    place.beat(poll_success_mono=NOW - 100)
    killed.hands.act = lambda *arguments: None  # type: ignore[method-assign]
    await tick(place, killed)
    assert place.supervisor.calls == []

    monitor = await place.monitor()
    place.beat(poll_success_mono=NOW - 100)
    await tick(place, monitor)
    assert place.supervisor.calls == [("stop", "bot-greeter"), ("start", "bot-greeter")]
    assert len(place.alerts) == 1
    assert place.actions().count("bot.restarted") == 1
    assert not monitor.hands.busy("greeter")


async def test_a_monitor_killed_between_stop_and_start_starts_the_bot_and_takes_it_for_nobodys_wish(
    place: Place,
) -> None:
    bot = place.bot()
    killed = await place.monitor()
    place.beat(poll_success_mono=NOW - 100)
    killed.hands.act = lambda *arguments: None  # type: ignore[method-assign]
    await tick(place, killed)
    place.supervisor.stop("bot-greeter")

    place.clock.forward(100)
    monitor = await place.monitor()
    await tick(place, monitor)
    await tick(place, monitor)
    assert place.supervisor.calls == [("stop", "bot-greeter"), ("start", "bot-greeter")]
    assert bot.state == ProcessStates.RUNNING
    assert place.autostart == []
    assert not [e for e in place.journalled() if isinstance(e, Wish)]


async def test_a_monitor_killed_after_the_restart_does_not_restart_again(place: Place) -> None:
    place.bot()
    killed = await place.monitor()
    place.beat(poll_success_mono=NOW - 100)
    killed.hands.act = lambda *arguments: None  # type: ignore[method-assign]
    await tick(place, killed)
    place.clock.forward(1)
    place.supervisor.stop("bot-greeter")
    place.supervisor.start("bot-greeter")
    monitor = await place.monitor()
    place.beat(start_mono=place.clock.mono)
    await tick(place, monitor)
    assert len(place.supervisor.calls) == 2
    (restart,) = [e for e in place.journalled() if isinstance(e, AuditEntry) and e.action == "bot.restarted"]
    assert restart.detail["outcome"] == "done"


async def test_a_monitor_killed_before_it_handed_over_tells_and_records_all_the_same(place: Place) -> None:
    place.bot(live={"restart_budget": 0})
    killed = await place.monitor()
    place.beat(poll_success_mono=NOW - 100)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(killed.outbox, "spool", lambda *arguments: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            await killed.tick()
    assert place.alerts == []
    monitor = await place.monitor()
    await tick(place, monitor)
    assert len(place.alerts) == 1
    assert place.actions().count("incident.opened") == 1


async def test_the_operators_stop_in_the_middle_of_a_restart_stands(place: Place) -> None:
    bot = place.bot()
    monitor = await place.monitor()
    place.beat(poll_success_mono=NOW - 100)
    place.supervisor.on_stop = lambda: setattr(bot.config, "autostart", False)
    await tick(place, monitor)
    await tick(place, monitor)
    assert place.supervisor.calls == [("stop", "bot-greeter")]
    assert place.autostart == []
    (restart,) = [e for e in place.journalled() if isinstance(e, AuditEntry) and e.action == "bot.restarted"]
    assert restart.detail["outcome"] == "stopped, and left so: its operator stopped it meanwhile"
    assert place.told()[-1].startswith("○ greeter was stopped (deaf for")


async def test_a_start_that_fails_is_tried_again_and_never_taken_for_a_wish(place: Place) -> None:
    place.bot()
    monitor = await place.monitor()
    place.beat(poll_success_mono=NOW - 100)
    place.supervisor.refuse_start = True
    for _ in range(3):
        await tick(place, monitor)
    assert place.autostart == []
    assert monitor.hands.busy("greeter")
    place.supervisor.refuse_start = False
    await tick(place, monitor)
    assert place.supervisor.processes["greeter"].state == ProcessStates.RUNNING
    assert place.actions().count("bot.restarted") == 1


@pytest.mark.parametrize("rows", [None, False])
def test_a_restart_of_a_bot_that_nobody_wants_any_more_does_nothing(rows: bool | None) -> None:
    supervisor = FakeSupervisor(Clock())
    if rows is not None:
        supervisor.processes["greeter"] = process(autostart=False)
    assert restart_bot(supervisor, "greeter", NOW, 9, False) == "left alone: it is not wanted any more"
    assert supervisor.calls == []


async def test_a_stop_through_supervisorctl_becomes_the_wish_once(place: Place) -> None:
    place.bot()
    place.bot("echo", live={"restart_budget": 0})
    monitor = await place.monitor()
    place.beat()
    place.beat("echo", poll_success_mono=NOW - 100)
    await tick(place, monitor)
    place.supervisor.stop("bot-greeter")
    place.supervisor.stop("bot-echo")
    await tick(place, monitor, 1)
    assert monitor.hands.waiting
    assert place.autostart == []
    await tick(place, monitor, 3)
    assert sorted(place.autostart) == [("echo", False), ("greeter", False)]
    await tick(place, monitor)
    assert len(place.autostart) == 2
    assert not monitor.hands.waiting
    wishes = [e for e in place.journalled() if isinstance(e, Wish)]
    assert sorted((w.bot, w.enabled, w.door) for w in wishes) == [
        ("echo", False, "supervisorctl"), ("greeter", False, "supervisorctl"),
    ]  # fmt: skip
    assert place.told()[-1] == "○ echo was stopped (deaf for 114 s)."


async def test_a_start_through_supervisorctl_becomes_the_wish(place: Place) -> None:
    place.bot(state=ProcessStates.STOPPED, pid=0, autostart=False)
    monitor = await place.monitor()
    await tick(place, monitor)
    place.supervisor.start("bot-greeter")
    place.beat()
    await tick(place, monitor)
    await tick(place, monitor)
    assert place.autostart == [("greeter", True)]
    (wish,) = [e for e in place.journalled() if isinstance(e, Wish)]
    assert wish.enabled


async def test_our_own_doors_are_no_wish_however_long_they_take(place: Place) -> None:
    bot = place.bot()
    other = place.bot("echo", state=ProcessStates.STOPPED, pid=0, autostart=False)
    monitor = await place.monitor()
    place.beat()
    await tick(place, monitor)
    bot.config.autostart, other.config.autostart = False, True  # 'bot stop' and 'bot start' of many, not there yet
    for _ in range(4):
        place.beat()
        await tick(place, monitor)
    assert place.autostart == []
    assert not monitor.hands.waiting


async def test_what_happens_while_supervisord_shuts_down_is_nobodys_wish(place: Place) -> None:
    place.bot()
    monitor = await place.monitor()
    place.beat()
    await tick(place, monitor)
    place.supervisor.state = "SHUTDOWN"
    place.supervisor.stop("bot-greeter")
    for _ in range(4):
        await tick(place, monitor)
    assert place.autostart == []


async def test_a_stop_is_no_wish_before_everybody_has_stopped_and_started(place: Place) -> None:
    place.bot()
    place.bot("slow")
    monitor = await place.monitor()
    await tick(place, monitor)
    place.supervisor.stop("bot-greeter")
    place.supervisor.stopping = True  # 'supervisorctl restart bot-greeter bot-slow'
    for _ in range(4):
        await tick(place, monitor)
    assert monitor.hands.waiting
    place.supervisor.stop("bot-slow")
    place.supervisor.stopping = False
    await tick(place, monitor, 2)
    place.supervisor.start("bot-slow")  # and greeter follows
    await tick(place, monitor, 2)
    await tick(place, monitor, 2)
    assert place.autostart == []
    await tick(place, monitor, 2)
    assert place.autostart == [("greeter", False)]


@pytest.mark.parametrize("meanwhile", ["started", "shutdown", "away", "another is stopped"])
async def test_what_is_over_when_the_plugins_have_answered_is_no_wish(place: Place, meanwhile: str) -> None:
    place.bot()
    monitor = await place.monitor()
    await tick(place, monitor)
    place.supervisor.stop("bot-greeter")
    await tick(place, monitor, 1)
    real = monitor.plugins.check

    async def slow(observations: Any) -> Any:
        answers = await real(observations)
        place.clock.forward(5)
        if meanwhile == "started":
            place.supervisor.start("bot-greeter")
        place.supervisor.state = "SHUTDOWN" if meanwhile == "shutdown" else "RUNNING"
        place.supervisor.away = meanwhile == "away"
        place.supervisor.stopping = meanwhile == "another is stopped"
        return answers

    monitor.plugins.check = slow  # type: ignore[method-assign]
    await tick(place, monitor, 3)
    assert place.autostart == []
    assert not [e for e in place.journalled() if isinstance(e, Wish)]


async def test_while_supervisord_ends_nothing_is_judged(place: Place) -> None:
    place.bot()
    monitor = await place.monitor()
    place.supervisor.state = "SHUTDOWN"
    place.beat(poll_success_mono=NOW - 100)
    for _ in range(3):
        await tick(place, monitor, 60)
    assert place.told() == []
    assert place.supervisor.calls == []
    assert place.status()["at"] == place.clock.wall


async def test_what_our_own_commands_restart_is_no_wish_also_when_they_are_killed(place: Place) -> None:
    place.bot()
    place.bot("echo")
    monitor = await place.monitor()
    await tick(place, monitor)
    with contextlib.suppress(KeyboardInterrupt), restarting(place.home, ["greeter"], Whose("ada", "bot restart")):
        place.supervisor.stop("bot-greeter")
        await tick(place, monitor)
        raise KeyboardInterrupt
    place.supervisor.stop("bot-echo")
    for trouble in (MultibotError("no"), MultibotError("no"), None, Applied(failed={"greeter": "no"})):
        place.finishing = trouble
        await tick(place, monitor)
    assert place.finished == 5
    assert place.autostart == [("echo", False)]
    with restarting(place.home, [], Whose("", "")):
        (place.home.state / "apply.lock").write_text("")
    place.supervisor.start("bot-greeter")
    for _ in range(3):
        await tick(place, monitor)
    assert place.finished == 5
    assert place.autostart == [("echo", False)]


async def test_a_stop_that_nobody_saw_counts_after_a_while(place: Place) -> None:
    place.bot(state=ProcessStates.STOPPED, pid=0)
    monitor = await place.monitor()
    await tick(place, monitor)
    await tick(place, monitor, 14)
    assert place.autostart == []
    await tick(place, monitor, 2)
    assert place.autostart == [("greeter", False)]


async def test_a_wish_is_journalled_once_though_autostart_cannot_be_changed(place: Place) -> None:
    place.bot()
    monitor = await place.monitor()
    place.beat()
    await tick(place, monitor)
    place.supervisor.stop("bot-greeter")
    monitor.hands._set_autostart = lambda bot, on: place.autostart.append((bot, on))  # does not work
    for _ in range(4):
        await tick(place, monitor)
    assert len(place.autostart) == 3
    assert len([e for e in place.journalled() if isinstance(e, Wish)]) == 1


async def test_a_wish_that_cannot_be_journalled_waits(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.bot()
    monitor = await place.monitor()
    place.beat()
    await tick(place, monitor)
    place.supervisor.stop("bot-greeter")
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "append", refuse)
        for _ in range(3):
            await tick(place, monitor)
        assert place.autostart == []
    await tick(place, monitor)
    assert place.autostart == [("greeter", False)]


def refuse(*arguments: object) -> None:
    raise JournalError("the journal cannot be written: No space left on device")


async def test_a_full_disk_is_told_and_nothing_that_was_decided_is_lost(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.bot(live={"restart_budget": 0})
    monitor = await place.monitor()
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "append", refuse)
        place.beat(poll_success_mono=NOW - 100)
        await tick(place, monitor)
        await tick(place, monitor)
        assert place.told() == [
            "✖ greeter is deaf: no successful getUpdates for 105 s. Not restarting it: its restart budget is 0.",
            "✖ multibot: the journal cannot be written: No space left on device.",
        ]
    await tick(place, monitor)
    await tick(place, monitor)
    assert place.told()[2:] == ["● multibot is well again after 10 s (journal)."]
    actions = place.actions()
    assert actions.count("incident.opened") == 2
    assert actions.count("monitor.started") == 1


async def test_it_is_said_where_an_incident_was_told_and_why_a_channel_fails(place: Place) -> None:
    class NotSentError(Exception):
        pass

    down = True

    def multibot_send_alert(alert: Alert) -> bool:
        if down:
            raise NotSentError("chat not found")
        return True

    hooks = {"multibot_send_alert": multibot_send_alert, "multibot_channel": lambda: "Pager (7)"}
    place.points.append(point("pager", SimpleNamespace(**{n: hookimpl(h, specname=n) for n, h in hooks.items()})))
    place.bot(live={"restart_budget": 0})
    monitor = await place.monitor()
    place.beat(poll_success_mono=NOW - 100)
    for _ in range(2):
        place.clock.forward(1)
        await monitor.tick()
        await until(lambda: any(d.failure for d in monitor.outbox.deliveries()) and place.alerts)
    failing = {"channel": "pager", "to": "Pager (7)", "waiting": 1, "failure": "chat not found"}
    assert place.status()["deliveries"] == [
        {"channel": "chat", "to": "chat", "waiting": 0, "failure": ""}, failing,
    ]  # fmt: skip
    assert place.status()["channels"] == ["chat", "Pager (7)"]
    assert [i["told"] for i in place.status()["incidents"]] == [["chat"]]
    down = False
    await tick(place, monitor)
    await tick(place, monitor)
    assert failing | {"waiting": 0, "failure": ""} in place.status()["deliveries"]
    assert [i["told"] for i in place.status()["incidents"]] == [["chat", "Pager (7)"]]


async def test_bots_that_were_taken_away_past_multibot_are_told_once_it_lasts(place: Place) -> None:
    place.bot()
    place.beat()
    place.lost = "supervisord lost 1 bot"
    monitor = await place.monitor()
    for _ in range(6):
        await tick(place, monitor)
    assert place.told() == []
    await tick(place, monitor)
    assert place.told() == ["✖ multibot: supervisord lost 1 bot."]
    place.beat()
    place.lost = OSError("no")
    await tick(place, monitor)
    assert place.status()["bots"].keys() == {"greeter"}
    place.lost = ""
    await tick(place, monitor)
    await tick(place, monitor)
    assert place.told()[-1].startswith("● multibot is well again after ")


async def test_a_status_file_that_cannot_be_written_is_told(place: Place) -> None:
    monitor = await place.monitor()
    place.home.run.rmdir()
    await tick(place, monitor)
    await tick(place, monitor)
    assert "status.json cannot be written: No such file or directory" in place.told()[0]


async def test_where_nothing_can_be_written_a_bots_silence_is_no_sign_of_anything(place: Place) -> None:
    place.home.status.mkdir()
    place.points.append(point("alive", alive))
    place.bot()
    place.beat()
    monitor = await place.monitor()
    for _ in range(4):
        await tick(place, monitor, 30)
    place.home.status.rmdir()
    place.beat()
    await tick(place, monitor)
    await tick(place, monitor)
    assert [text.partition(":")[0].partition(" is ")[0] for text in place.told()] == ["✖ multibot", "● multibot"]
    assert place.supervisor.calls == []


async def test_a_memory_that_cannot_be_written_does_not_stop_the_alert(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.bot(live={"restart_budget": 0})
    monitor = await place.monitor()

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("multibot_plugin.health.ledger.Ledger.save", full)
    place.beat(poll_success_mono=NOW - 100)
    await tick(place, monitor)
    assert len(place.alerts) == 1


async def test_a_memory_that_cannot_be_read_is_begun_anew(place: Place) -> None:
    (place.home.state / "monitor.json").write_text("{")
    monitor = await place.monitor()
    await tick(place, monitor)
    assert monitor.ledger.tracks == {}


async def test_supervisord_away_is_an_error_of_the_tick_only(place: Place) -> None:
    place.bot(live={"restart_budget": 0})
    monitor = await place.monitor()
    place.beat(poll_success_mono=NOW - 100)
    await tick(place, monitor)
    place.supervisor.away = True
    with pytest.raises(SupervisordAway):
        await monitor.tick()
    place.supervisor.away = False
    await tick(place, monitor)
    assert len(place.alerts) == 1


async def test_an_answer_that_is_none_is_an_error_of_the_tick(place: Place) -> None:
    monitor = await place.monitor()
    place.supervisor.bots = lambda known=None: {}  # type: ignore[method-assign]
    with pytest.raises(MultibotError, match="not an answer of getBots"):
        await monitor.tick()


async def test_a_bot_out_of_sight_is_removed_only_after_a_while(place: Place) -> None:
    bot = place.bot(live={"restart_budget": 0})
    monitor = await place.monitor()
    place.beat(poll_success_mono=NOW - 100)
    await tick(place, monitor)
    del place.supervisor.processes["greeter"]  # 'apply' takes it away ...
    await tick(place, monitor)
    place.supervisor.processes["greeter"] = bot  # ... and adds it again
    await tick(place, monitor)
    assert len(place.alerts) == 1
    del place.supervisor.processes["greeter"]
    for _ in range(2):
        await tick(place, monitor, GONE_AFTER_S / 2)
    assert place.told()[1:] == ["○ greeter was removed (deaf for 2 min)."]


async def test_a_disabled_plugin_is_told_recorded_and_its_incidents_end(place: Place) -> None:
    broken = False

    def multibot_check(observation: Observation) -> Any:
        if broken:
            raise ValueError("no")
        return [finding("stranger", bot=observation.bot)]

    place.points.append(point("stranger", SimpleNamespace(multibot_check=hookimpl(multibot_check))))
    place.bot()
    monitor = await place.monitor()
    place.beat()
    await tick(place, monitor)
    assert place.told() == ["✖ greeter: stranger: no luck."]
    broken = True
    for _ in range(FAILURES_ALLOWED):
        place.beat()
        await tick(place, monitor)
    told = place.told()[1:]
    assert told[0].startswith("▲ multibot: plugin stranger is disabled: 5 failures in a row")
    assert told[1].startswith("○ greeter is not checked any more by stranger")
    assert "plugin.disabled" in place.actions()
    (status,) = [p for p in place.status()["plugins"] if p["name"] == "stranger"]
    assert status["disabled"]


async def test_an_alert_that_no_channel_took_in_a_day_is_recorded_as_lost(place: Place) -> None:
    monitor = await place.monitor()
    monitor.outbox._lost("chat", Alert("i.1", "i", "h", "greeter", "deaf", finding().level, "opened", "x", 0.0), "down")
    await tick(place, monitor)
    (lost,) = [e for e in place.journalled() if isinstance(e, AuditEntry) and e.action == "alert.lost"]
    assert (lost.bot, lost.detail["channel"], lost.detail["reason"]) == ("greeter", "chat", "down")


async def test_supervisords_plugin_reads_the_picture(place: Place) -> None:
    bot = place.bot(live={"launch": "build"})
    monitor = await place.monitor()
    place.beat(update_mono=NOW - 60)
    await tick(place, monitor)
    listener = SimpleNamespace(pid=place.status()["pid"], get_state=lambda: ProcessStates.RUNNING)
    seen = Seen(place.status(), listener, place.clock.wall, place.clock.mono)
    row = bot_row("greeter", bot, seen, None)
    assert (row["state"], row["health"], row["cause"], row["launch"]) == ("running", "healthy", "", "build")
    assert (row["last_poll_age_s"], row["last_update_age_s"], row["restarts_24h"]) == (6.0, 65.0, 0)
    assert place.home.status.stat().st_mode & 0o777 == 0o600
    status = place.status()
    assert (status["schema"], status["pid"], status["channels"]) == (1, os.getpid(), ["chat"])
    assert set(status["database"]) == {"ok", "text"}


NESTED = "[" * 200_000
ENDED = {"ended_at": NOW_AT, "cause": "misconfigured", "text": "x"}
RUN = {"started_at": NOW_AT - 9, "start_mono": NOW - 9, "pid": PID, "digest": "d", "exit": ENDED}
BEAT = {"pid": PID, "phase": "running", "start_mono": NOW - 9, "polling_seen": True, "poll_success_mono": NOW + 1}


@pytest.mark.parametrize("state", [ProcessStates.RUNNING, ProcessStates.FATAL])
async def test_files_of_a_hostile_bot_harm_nothing(place: Place, state: int) -> None:
    place.points += [point("alive", alive), point("memory", memory)]
    place.bot(state=state)
    place.bot("echo")
    monitor = await place.monitor()
    paths = place.home.bot("greeter")
    place.beat("echo")
    odd = [None, True, "x", -1, 1e308, 10**400, [], {}, float("nan"), float("inf")]
    broken: list[Any] = ["{", "[]", "\xff", NESTED, "y" * 1024**2, '{"a":' * 99_999, [3], 1e999]
    for name in ("pid", "phase", "start_mono", "poll_success_mono", "poll_code"):
        broken += [{**BEAT, name: value} for value in odd]
    for name in ("started_at", "start_mono", "pid", "digest", "exit"):
        broken += [[{**RUN, name: value}] for value in odd]
    broken += [[{**RUN, "exit": {**ENDED, name: value}}] for name in ENDED for value in odd]
    for content in broken:
        text = content if isinstance(content, str) else json.dumps(content)
        for path in (paths.heartbeat, paths.runs, paths.live):
            path.write_text(text)
        await tick(place, monitor, 0.01)
        assert place.status()["bots"]["echo"]["health"] == "healthy"
        assert place.status()["bots"]["greeter"]["launch"] == "unknown"
    assert not any(plugin["failures"] for plugin in place.status()["plugins"])
    paths.heartbeat.unlink()
    os.mkfifo(paths.heartbeat)
    paths.runs.unlink()
    paths.runs.symlink_to("/etc/passwd")
    paths.live.unlink()
    await tick(place, monitor, 0.1)
    cause = "no heartbeat yet" if state == ProcessStates.RUNNING else "it cannot be started"
    assert cause in place.status()["bots"]["greeter"]["cause"]
    assert place.status()["bots"]["echo"]["health"] == "healthy"


async def test_words_of_a_hostile_bot_are_one_short_line(place: Place) -> None:
    place.points += [point("alive", alive)]
    place.bot(state=ProcessStates.FATAL, exitstatus=78, pid=0)
    place.bot("echo")
    monitor = await place.monitor()
    place.beat("echo")
    text = "\x1b[2J\x07\ud800\n\u202e" + "a" * 200_000
    place.home.bot("greeter").runs.write_text(json.dumps([{**RUN, "exit": {**ENDED, "text": text}}]))
    place.home.bot("greeter").heartbeat.write_text(json.dumps({**BEAT, "phase": text}))
    await tick(place, monitor)
    cause = place.status()["bots"]["greeter"]["cause"]
    assert "[2J a" in cause
    assert cause.isprintable()
    assert len(place.home.status.read_text()) < 8000


async def test_a_bot_that_cannot_be_looked_at_costs_no_other(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.bot()
    place.bot("echo")
    monitor = await place.monitor()
    real = observe.read_runs

    def slip(paths: BotPaths) -> Any:
        if paths.bot == "greeter":
            raise MemoryError
        return real(paths)

    monkeypatch.setattr(observe, "read_runs", slip)
    for name in ("greeter", "echo"):
        place.beat(name)
    await tick(place, monitor)
    assert {bot: seen["health"] for bot, seen in place.status()["bots"].items()} == {
        "greeter": "unknown",
        "echo": "healthy",
    }
    monkeypatch.undo()
    await tick(place, monitor)
    assert place.status()["bots"]["greeter"]["health"] == "healthy"


async def test_ticks_go_on_after_a_failure_and_end_when_the_settings_change(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.home.toml.write_text("[monitor]\ntick_s = 0.1\n")
    place.bot()
    monitor, ticks = await place.monitor(), []
    real = monitor.tick

    async def count() -> None:
        ticks.append(1)
        if len(ticks) == 1:
            raise KeyError("slip")
        place.beat()
        await real()

    monkeypatch.setattr(monitor, "tick", count)
    task = asyncio.create_task(watch._tick_on(monitor, watch._signature(place.home), asyncio.Event()))
    try:
        await until(lambda: len(ticks) >= 3)
        place.home.toml.write_text("[monitor]\ntick_s = 'never'\n")  # no reason to stop watching
        seen = len(ticks)
        await until(lambda: len(ticks) >= seen + 3)
        assert not task.done()
        place.home.toml.write_text("[monitor]\ntick_s = 0.2\n")
        await until(task.done)
        await task
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_an_event_brings_the_next_tick_forward(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.home.toml.write_text("[monitor]\ntick_s = 3600\n")
    monkeypatch.setattr(watch, "LEAST_PAUSE_S", 0.01)
    monitor, wake, ticks = await place.monitor(), asyncio.Event(), []

    async def count() -> None:
        ticks.append(1)

    monkeypatch.setattr(monitor, "tick", count)
    task = asyncio.create_task(watch._tick_on(monitor, watch._signature(place.home), wake))
    await until(lambda: len(ticks) == 1)
    wake.set()
    await until(lambda: len(ticks) == 2)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def test_the_monitor_waits_for_settings_that_can_be_used(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[object] = []

    async def begin(home: object, settings: object, *more: object) -> None:
        begun.append(settings)
        await asyncio.Event().wait()

    monkeypatch.setattr(watch, "_run_under", begin)
    monkeypatch.setattr(watch, "LEAST_PAUSE_S", 0.01)
    place.home.toml.write_text("nonsense")
    task = asyncio.create_task(watch.run(place.home))
    await asyncio.sleep(0)
    assert begun == []
    place.home.toml.write_text("[monitor]\ntick_s = 7\n")
    await until(lambda: bool(begun))
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def test_plugins_are_told_the_settings_but_not_the_databases_url(tmp_path: Path) -> None:
    settings = load(tmp_path / "none", {"database_url": "postgresql://u:secret@h/d"}, environ={})
    info = watch._info(settings, "x")
    assert "secret" not in repr(info)
    assert info.settings["monitor.tick_s"] == 5.0


async def test_old_logs_are_removed_now_and_then_and_what_prevents_it_is_told(place: Place) -> None:
    place.bot(live={"log_keep_s": 60.0})
    monitor = await place.monitor()
    old = place.home.log / "bot-greeter.log.1"

    def rotate() -> None:
        old.write_text("x")
        os.utime(old, (1000, 1000))

    rotate()
    place.beat()
    await tick(place, monitor)
    assert not old.exists()
    rotate()
    await tick(place, monitor)
    assert old.exists()
    place.home.log.rename(place.home.log.with_name("elsewhere"))
    place.home.log.touch()
    place.beat()
    await tick(place, monitor, LOGS_EVERY_S)
    place.beat()
    await tick(place, monitor)
    assert any("old logs cannot be removed" in text for text in place.told())
