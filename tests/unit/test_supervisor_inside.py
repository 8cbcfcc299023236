"""What runs inside supervisord, part by part, on stand-ins of its objects; on the real ones: integration/."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from supervisor import events
from supervisor.poller import PollPoller
from supervisor.states import EventListenerStates, ProcessStates, SupervisorStates
from supervisor.xmlrpc import DeferredXMLRPCResponse, RPCError

from multibot_plugin.supervisor.inside.care import Care
from multibot_plugin.supervisor.inside.ends import Ends, end_of
from multibot_plugin.supervisor.inside.parts import Parts, contained
from multibot_plugin.supervisor.inside.patches import Patches
from multibot_plugin.supervisor.inside.stops import Stopper
from multibot_plugin.supervisor.inside.turns import Turns, quick_forks
from multibot_plugin.supervisor.inside.updates import LIVE, Updates, section_of
from multibot_plugin.supervisor.inside.words import Word


@pytest.fixture(autouse=True)
def no_subscribers() -> Iterator[None]:
    events.clear()
    yield
    events.clear()


def bare(function: Callable[..., None]) -> Callable[..., None]:
    return function


class Fifo(list[Any]):
    def first(self) -> Any:
        return self[0]


class Process:
    """A program as the loop sees it."""

    def __init__(self, state: int, delay: float = 0.0, group: Any = None) -> None:
        self.state, self.delay, self.laststart = state, delay, delay - 1
        self.config = SimpleNamespace(startsecs=1, name="p", command="x")
        self.group, self.killing, self.turns, self.pid = group, False, 0, 42

    def get_state(self) -> int:
        return self.state

    def transition(self) -> None:
        self.turns += 1


def patience(turns: Turns, now: float) -> float:
    """Return how long supervisord's poll lasts at most."""
    turns._timeout = 1.0
    turns._measure(now)
    return turns._timeout


def tell(process: Process, kind: Any = events.ProcessStateExitedEvent) -> None:
    events.notify(kind(process, ProcessStates.RUNNING, True))


def told(turns: Turns, process: Process) -> None:
    """Let a program change its state, and the turn that tells event listeners of it pass."""
    tell(process)
    assert patience(turns, 0.0) == 0.0


class Loop:
    """supervisord as far as Turns touches it, with supervisor's own poller."""

    def __init__(self) -> None:
        self.reaped = 0
        self.signals: list[int] = []
        self.channels: dict[int, Any] = {}
        self.process_groups: dict[str, Any] = {}
        self.options = SimpleNamespace(
            logger=None, pidhistory={}, mood=SupervisorStates.RUNNING, get_socket_map=lambda: self.channels,
            get_signal=lambda: self.signals.pop() if self.signals else None,
        )  # fmt: skip
        self.options.poller = PollPoller(self.options)

    def reap(self) -> None:
        self.reaped += 1


@pytest.fixture
def loop() -> Iterator[Loop]:
    made = Loop()
    before = signal.signal(signal.SIGUSR1, lambda number, frame: None)
    turns = Turns(made, bare, Patches(made, bare))
    assert turns.poll(0) == ([], [])  # the first turn
    yield made
    made.options.mood = SupervisorStates.RESTARTING
    events.notify(events.SupervisorStoppingEvent())
    signal.signal(signal.SIGUSR1, before)
    assert signal.set_wakeup_fd(-1) == -1


def test_the_first_turn_does_not_wait_nor_one_after_a_program_was_added(loop: Loop) -> None:
    turns = loop.options.poller
    assert [patience(turns, now) for now in (0.0, 3.5)] == [5.002, 1.502]  # supervisord's own ticks
    events.notify(events.ProcessGroupAddedEvent("x"))
    assert [patience(turns, 0.0), patience(turns, 0.0)] == [0.0, 5.002]


def test_the_poll_lasts_until_a_start_a_retry_or_a_kill_falls_due(loop: Loop) -> None:
    turns, now = loop.options.poller, 1000.0
    for state in (ProcessStates.STARTING, ProcessStates.BACKOFF, ProcessStates.STOPPING):
        process = Process(state, delay=now + 0.25)
        told(turns, process)
        assert 0.25 < patience(turns, now) < 0.26
        assert patience(turns, now + 5) == 0.01
        process.state = ProcessStates.RUNNING
        told(turns, process)
        assert patience(turns, now) == 5.002
    fifo = [DeferredXMLRPCResponse(None, SimpleNamespace(delay=0))]  # an answer that waits
    loop.channels[7] = SimpleNamespace(delay=fifo[0].delay, producer_fifo=Fifo(fifo))
    assert patience(turns, now) == 0.02
    loop.channels[7] = SimpleNamespace(delay=0.1, producer_fifo=Fifo(["tail -f"]))
    assert patience(turns, now) == 0.5


def test_a_signal_ends_the_poll_and_the_dead_are_reaped_by_the_hundred_when_all_is_read(loop: Loop) -> None:
    loop.options.pidhistory = dict.fromkeys(range(250))
    os.kill(os.getpid(), signal.SIGUSR1)
    read, write = os.pipe()
    loop.options.poller.register_readable(read)  # as everything else that supervisord reads
    os.write(write, b"x")
    assert loop.options.poller.poll(30) == ([read], [])
    assert loop.reaped == 0  # supervisord reads first: the dead have descriptors, too
    loop.options.get_signal()
    assert loop.reaped == 2  # after supervisord's own hundred
    loop.options.poller.unregister_readable(read)
    os.close(read)
    os.close(write)


def test_a_turn_follows_a_signal_and_a_tick_at_once(loop: Loop) -> None:
    turns = loop.options.poller
    loop.signals.append(signal.SIGTERM)
    assert loop.options.get_signal() == signal.SIGTERM
    assert patience(turns, 0.0) == 0.0
    assert loop.options.get_signal() is None
    assert patience(turns, 0.0) == 5.002
    events.notify(events.Tick5Event(0, loop))
    assert patience(turns, 0.0) == 0.0


def test_a_program_that_ends_at_once_is_not_started_at_once(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("multibot_plugin.supervisor.inside.turns._TICK_S", 1e12)  # none of supervisord's falls due now
    turns, now = loop.options.poller, time.time()
    group = SimpleNamespace(config=SimpleNamespace(name="g"))
    loop.process_groups["g"] = group
    process = Process(ProcessStates.EXITED, group=group)
    process.laststart = now - 0.2
    told(turns, process)
    loop.options.get_signal()
    process.transition()  # as its group does in every turn
    assert process.turns == 0
    assert 0.7 < patience(turns, now) < 0.9
    process.state = ProcessStates.STARTING  # by hand
    process.transition()
    process.state = ProcessStates.EXITED
    process.transition()
    assert process.turns == 2
    patience(turns, now + 1)
    assert turns._rests == []


def test_the_dead_are_started_after_supervisords_own_reaping_unless_they_were_taken_out(loop: Loop) -> None:
    group = SimpleNamespace(config=SimpleNamespace(name="g"))
    here, gone = Process(ProcessStates.EXITED, group=group), Process(ProcessStates.EXITED)
    gone.group = SimpleNamespace(config=SimpleNamespace(name="gone"))
    loop.process_groups["g"] = group
    for process in (here, gone):
        tell(process)
    assert loop.options.get_signal() is None
    assert (here.turns, gone.turns) == (1, 0)
    loop.options.get_signal()
    assert here.turns == 1


def test_before_a_reload_the_descriptors_are_given_up_and_the_poll_is_short() -> None:
    made = Loop()
    turns = Turns(made, bare, Patches(made, bare))
    turns.poll(0)
    read = turns._read
    made.options.mood = SupervisorStates.RESTARTING
    events.notify(events.SupervisorStoppingEvent())
    assert 0 < patience(turns, 0.0) < 0.1
    assert turns.poll(0) == ([], [])
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(read)


def test_a_child_closes_nothing_one_by_one_inherits_nothing_and_misses_no_signal() -> None:
    read, write = os.pipe()
    os.set_inheritable(read, True)
    options = SimpleNamespace(minfds=20_000, fork=os.fork)
    before = signal.signal(signal.SIGTERM, lambda number, frame: None)
    try:
        quick_forks(options)
        assert not os.get_inheritable(read)
        pid = options.fork()
        if pid == 0:
            try:
                os.write(write, b"%d" % options.minfds)
                signal.pause()
            finally:
                os._exit(1)
        assert os.read(read, 10) == b"3"
        assert options.minfds == 20_000  # supervisord's own: what it closes at a reload
        os.kill(pid, signal.SIGTERM)
        assert os.waitpid(pid, 0) == (pid, signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
        assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    finally:
        signal.signal(signal.SIGTERM, before)
        os.close(read)
        os.close(write)


def test_a_stale_descriptor_does_not_make_every_poll_return_at_once(loop: Loop) -> None:
    turns = loop.options.poller
    read, write = os.pipe()
    turns.register_readable(write)  # of a dead program; the number is that of another's stdin now
    os.close(read)  # which nobody reads
    told = []
    for _ in range(2):
        began = time.monotonic()
        turns._soon, turns._measure = False, lambda now: setattr(turns, "_timeout", 0.3)
        told.append((turns.poll(0.3), time.monotonic() - began > 0.2))
    assert told == [(([], []), False), (([], []), True)]
    os.close(write)


class Group:
    """A process group at shutdown: a priority, and what stop_all was told."""

    def __init__(self, priority: int, log: list[int]) -> None:
        self.config, self.running, self.log = SimpleNamespace(priority=priority), True, log

    def get_unstopped_processes(self) -> list[str]:
        return ["p"] if self.running else []

    def stop_all(self) -> None:
        self.log.append(self.config.priority)


def test_priorities_stop_one_after_the_other_and_each_at_once() -> None:
    told: list[int] = []
    groups = {name: Group(priority, told) for name, priority in (("a", 999), ("b", 999), ("c", 10), ("d", 1))}
    stopper = Stopper(SimpleNamespace(process_groups=groups, stopping=True))
    ended = SimpleNamespace(process=Process(ProcessStates.STOPPED))
    stopper.go_on()
    assert told == [999, 999]
    groups["b"].running = False
    stopper.changed(ended)
    assert told[2:] == []
    groups["a"].running = False
    stopper.changed(SimpleNamespace(process=Process(ProcessStates.STOPPING)))
    assert told[2:] == []
    stopper.changed(ended)
    assert told[2:] == [10]
    groups["c"].running = groups["d"].running = False
    stopper.changed(ended)
    assert told[3:] == []


def test_an_end_is_a_code_or_the_name_of_a_signal() -> None:
    assert (end_of(3 << 8, 7.0).code, end_of(3 << 8, 7.0).signal) == (3, None)
    assert (end_of(9, 7.0).code, end_of(9, 7.0).signal) == (None, "SIGKILL")
    assert end_of(11 | 128, 7.0).signal == "SIGSEGV"  # with a core
    assert end_of(36, 7.0).signal == "SIG36"


def test_ends_are_kept_by_program_and_only_those_count_that_nobody_asked_for() -> None:
    status = iter([(7, 9), (7, 0), (8, 9), (None, None)])
    process = Process(ProcessStates.RUNNING)
    options = SimpleNamespace(waitpid=lambda: next(status), pidhistory={7: process})
    ends = Ends(SimpleNamespace(options=options), bare)
    assert ends.of("p") is None
    assert options.waitpid() == (7, 9)
    process.killing = True
    assert options.waitpid() == (7, 0)
    past = ends.of("p")
    assert past is not None
    assert past.end is not None
    assert (past.end.code, past.end.signal, len(past.deaths)) == (0, None, 1)
    assert options.waitpid() == (8, 9)  # a process of nobody
    assert options.waitpid() == (None, None)
    now = past.deaths[0]
    assert past.within(now + 599) == {"10m": 1, "1h": 1, "24h": 1}
    assert past.within(now + 601) == {"10m": 0, "1h": 1, "24h": 1}
    assert past.within(now + 90_000) == {"10m": 0, "1h": 0, "24h": 0}


class Listener(Process):
    def __init__(self, signals: list[int]) -> None:
        super().__init__(ProcessStates.RUNNING)
        self.config.name, self.event = "multibot", None
        self.listener_state, self.signals = EventListenerStates.READY, signals

    def signal(self, number: int) -> None:
        self.signals.append(number)


def test_a_monitor_that_hangs_or_has_lost_the_protocol_is_killed_and_a_busy_one_is_not() -> None:
    killed: list[int] = []
    log: list[str] = []
    listener = Listener(killed)
    pool = SimpleNamespace(event_buffer=[], processes={"multibot": listener})
    options = SimpleNamespace(logger=SimpleNamespace(warn=log.append))
    care = Care(SimpleNamespace(process_groups={"multibot": pool}, options=options), bare, 30.0)
    for now in (0.0, 100.0):
        care.look(now)
    listener.listener_state = EventListenerStates.BUSY
    for serial in range(20):  # another event each time
        listener.event = SimpleNamespace(serial=serial)
        care.look(100.0 + 5 * serial)
    assert killed == []
    care.look(195.0 + 29)
    assert killed == []
    care.look(195.0 + 31)
    assert killed == [signal.SIGKILL]
    assert log == ["multibot: the monitor (pid 42) has not answered for 31 s: killing it"]
    listener.listener_state = EventListenerStates.UNKNOWN
    care.look(300.0)
    assert len(killed) == 2
    listener.state = ProcessStates.STOPPED
    care.look(400.0)
    listener.state, listener.listener_state = ProcessStates.RUNNING, EventListenerStates.ACKNOWLEDGED
    care.look(500.0)
    care.look(531.0)
    assert len(killed) == 2
    care.look(801.0)  # it never said that it is ready
    assert len(killed) == 3


def test_no_exception_comes_out_and_no_value_of_it_is_logged() -> None:
    log: list[str] = []

    def fails(secret: str) -> None:
        raise KeyError(secret)

    contained(SimpleNamespace(warn=log.append))(fails)("99:SECRET")
    assert len(log) == 1
    assert log[0].startswith("multibot: KeyError at fails:")
    assert "SECRET" not in log[0]


def test_each_part_has_a_switch_and_a_wrong_one_is_named_and_changes_nothing() -> None:
    assert Parts.of({}) == (Parts(), [])
    switched = Parts(instant_restart=False, listener_patience_s=0.0)
    assert Parts.of({"instant_restart": "off", "listener_patience_s": "0"}) == (switched, [])
    for options, told in (
        ({"instant_restart": "perhaps"}, "instant_restart=perhaps: not true or false"),
        ({"listener_patience_s": "nan"}, "listener_patience_s=nan: not a number of seconds up to 86400 (0: never)"),
    ):
        assert Parts.of(options) == (Parts(), [told])
    assert Parts.of({"instant": "true"})[1][0].startswith("has no option 'instant', but instant_restart, quick_fork")


def test_what_is_replaced_in_supervisors_classes_is_given_back_before_a_reload() -> None:
    class Theirs:
        value = 1

    options = SimpleNamespace(mood=SupervisorStates.SHUTDOWN)
    patches = Patches(SimpleNamespace(options=options), bare)
    assert patches.put(Theirs, "value", 2) == 1
    assert patches.put(Theirs, "value", 3) == 2
    events.notify(events.SupervisorStoppingEvent())
    assert Theirs.value == 3
    options.mood = SupervisorStates.RESTARTING
    events.notify(events.SupervisorStoppingEvent())
    assert Theirs.value == 1


@pytest.mark.parametrize(
    ("code", "was_enabled", "enabled", "held", "word"),
    [
        (79, True, True, False, Word.FINISHED), (79, False, False, False, Word.FINISHED),
        (79, True, False, False, Word.FINISHED), (79, False, True, False, Word.REPLACED),
        (78, True, True, False, Word.REPLACED), (78, True, True, True, Word.STANDING),
        (79, True, True, True, Word.FINISHED),
    ],
)  # fmt: skip
def test_a_bot_that_has_finished_or_was_stopped_stays_so_when_it_is_replaced(
    code: int, was_enabled: bool, enabled: bool, held: bool, word: Word
) -> None:
    def config(digest: str, autostart: bool) -> Any:
        command = f"python -m multibot_runner a {digest}"
        return SimpleNamespace(**{**dict.fromkeys(LIVE), "command": command, "autostart": autostart})

    def group(of: Any, **past: Any) -> Any:
        made = SimpleNamespace(**{"state": 0, "exitstatus": None, "laststart": 0, "laststop": 0, **past}, config=of)
        made.get_state = lambda: made.state
        wanted = SimpleNamespace(name="bot-a", process_configs=[of])
        return SimpleNamespace(config=wanted, processes={"bot-a": made}, get_unstopped_processes=list)

    groups = {"bot-a": group(config("d1", was_enabled), state=100, exitstatus=code, laststart=5, laststop=7)}
    supervisord = SimpleNamespace(
        process_groups=groups, options=SimpleNamespace(process_group_configs=[]), remove_process_group=groups.pop,
        add_process_group=lambda wanted: groups.update({"bot-a": group(*wanted.process_configs)}),
    )  # fmt: skip
    after = group(config("d2", enabled)).config
    assert Updates(supervisord, "x", lambda: None, whole=False)._conform("bot-a", after, held) == word
    new = groups["bot-a"].processes["bot-a"]
    assert new.config.command.endswith("d2")
    past = (0, None, 0, 0) if word == Word.REPLACED else (100, code, 5, 7)
    assert (new.state, new.exitstatus, new.laststart, new.laststop) == past


def test_a_section_is_cut_out_whole_and_never_mixed() -> None:
    text = "; head\n\n[program:bot-a]\ncommand=1\n\n[program:bot-ab]\ncommand=2\n"
    assert section_of(text, "a") == "[program:bot-a]\ncommand=1\n"
    assert section_of(text, "ab") == "[program:bot-ab]\ncommand=2\n"
    assert section_of(text, "b") is None
    with pytest.raises(RPCError):
        section_of(text + text, "a")


def test_time_does_not_stand_in_the_way() -> None:
    """A wall clock that was set back makes nobody wait for longer than until supervisord's next tick."""
    made = Loop()
    turns = Turns(made, bare, Patches(made, bare))
    told(turns, Process(ProcessStates.STARTING, delay=time.time() + 3600))
    polled: list[float] = []
    made.options.poller._stock.poll = lambda timeout: (polled.append(timeout), ([], []))[1]
    turns.poll(1)
    assert 0 < polled[0] < 5.1
    made.options.mood = SupervisorStates.RESTARTING
    events.notify(events.SupervisorStoppingEvent())
