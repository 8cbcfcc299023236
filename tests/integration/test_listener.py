"""The event listener as supervisord drives it: a real process on real pipes, with plugins that misbehave."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import random
import resource
import select
import signal
import socketserver
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any
from xmlrpc.server import SimpleXMLRPCDispatcher, SimpleXMLRPCRequestHandler

import pytest
from watched import Clock, FakeSupervisor, process, until

from multibot_plugin.home import find_home
from multibot_plugin.journal import AuditEntry, Entry, Journal
from multibot_plugin.supervisor import listener as listener_module
from multibot_plugin.supervisor.inside.requests import Requests
from multibot_plugin.supervisor.listener import Listener as Protocol
from multibot_plugin.supervisor.serials import Serials

PATIENCE_S = 60.0
DONE = b"RESULT 2\nOKREADY\n"


class _Handler(SimpleXMLRPCRequestHandler):
    disable_nagle_algorithm = False

    def address_string(self) -> str:
        return "unix"


class _Server(socketserver.UnixStreamServer, SimpleXMLRPCDispatcher):
    def __init__(self, path: Path) -> None:
        SimpleXMLRPCDispatcher.__init__(self, allow_none=False)
        self.logRequests = False
        super().__init__(str(path), _Handler)


@contextmanager
def supervisord(path: Path, bots: Callable[[], dict[str, Any]]) -> Iterator[None]:
    """Answer ``multibot.getBots`` on a unix socket by real XML-RPC."""
    with _Server(path) as server:
        server.register_function(lambda unless="": json.dumps(bots()), "multibot.getBots")
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


class Listener:
    """The process, and the words that supervisord would say to it."""

    def __init__(self, top: Path, plugin: str) -> None:
        self.home = find_home(str(top / "home"))
        for path in (self.home.state, self.home.run, self.home.log):
            path.mkdir(parents=True, exist_ok=True)
        self.home.toml.write_text("[monitor]\ntick_s = 0.1\nplugin_timeout_s = 0.5\n")
        site = top / "site"
        (site / "stranger-1.dist-info").mkdir(parents=True, exist_ok=True)
        (site / "stranger-1.dist-info" / "entry_points.txt").write_text("[multibot.hooks]\nstranger = stranger\n")
        (site / "stranger-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: stranger\nVersion: 1\n")
        (site / "stranger.py").write_text(plugin)
        self.stderr = (top / "stderr").open("w+")
        self._environment = {**os.environ, "MULTIBOT_HOME": str(self.home.config), "PYTHONPATH": str(site)}
        self.serial = 0
        self.entries: list[AuditEntry] = []
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "multibot_plugin.supervisor.listener"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.stderr, env=self._environment, bufsize=0,
        )  # fmt: skip

    def kill(self) -> None:
        """Kill it as nothing can be prepared for, and start another as supervisord does."""
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            stream.close()
        self.start()
        self.hear(b"READY\n")

    def hear(self, wanted: bytes) -> None:
        """Read exactly ``wanted`` from its stdout."""
        assert self.process.stdout is not None
        found, deadline = b"", time.monotonic() + PATIENCE_S
        while len(found) < len(wanted):
            ready, _, _ = select.select([self.process.stdout], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"heard {found!r} instead of {wanted!r}; {self.log()}"
            data = os.read(self.process.stdout.fileno(), len(wanted) - len(found))
            assert data, f"its end after {found!r}; {self.log()}"
            found += data
        assert found == wanted

    def nothing_more(self) -> None:
        assert self.process.stdout is not None
        assert select.select([self.process.stdout], [], [], 0.0)[0] == []

    def say(self, payload: str = "", name: str = "TICK_5", pool_serial: int | None = None, **header: Any) -> None:
        self.serial = self.serial + 1 if pool_serial is None else pool_serial
        words = {"ver": "3.0", "server": "supervisor", "serial": 100 + self.serial, "pool": "multibot",
                 "poolserial": self.serial, "eventname": name, "len": len(payload), **header}  # fmt: skip
        line = " ".join(f"{key}:{value}" for key, value in words.items())
        self.write(f"{line}\n{payload}".encode())

    def write(self, data: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(data)

    def tell(self, payload: str = "", name: str = "TICK_5", **more: Any) -> None:
        """Say an event and hear its acknowledgement."""
        self.say(payload, name, **more)
        self.hear(DONE)

    def end(self) -> int:
        assert self.process.stdin is not None
        self.process.stdin.close()
        return self.process.wait(PATIENCE_S)

    def log(self) -> str:
        return Path(self.stderr.name).read_text()

    def wait_log(self, text: str) -> None:
        self.wait(lambda: text in self.log(), f"{text!r} in its log")

    def wait(self, condition: Callable[[], object], what: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline, f"no {what}: {self.log()}"
            assert self.process.poll() is None, f"it ended: {self.log()}"
            time.sleep(0.01)

    def journalled(self) -> list[AuditEntry]:
        """Return everything that it journalled so far."""
        self.entries.extend(_taken(Journal(self.home.journal)))
        return self.entries

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.stderr):
            assert stream is not None
            stream.close()


@pytest.fixture
def top() -> Iterator[Path]:
    """A short directory: there is a socket in it."""
    with tempfile.TemporaryDirectory(prefix="mb-") as directory:
        yield Path(directory)


@pytest.fixture
def begin(top: Path) -> Iterator[Callable[[str], Listener]]:
    made: list[Listener] = []

    def start(plugin: str = "") -> Listener:
        made.append(Listener(top, plugin))
        made[-1].hear(b"READY\n")
        return made[-1]

    yield start
    for listener in made:
        listener.close()


REMOTE = "REMOTE_COMMUNICATION"
EXITED = "processname:bot-echo groupname:bot-echo from_state:RUNNING expected:0 pid:4242"


def test_events_are_acknowledged_one_by_one_also_with_letters_of_several_bytes(begin: Callable[..., Listener]) -> None:
    listener = begin()
    listener.tell()
    listener.tell("processname:bot-echo groupname:bot-echo from_state:STARTING pid:1", "PROCESS_STATE_RUNNING")
    listener.tell("processname:x groupname:x pid:1\nпривет🤖 é", "PROCESS_COMMUNICATION_STDOUT")
    listener.tell("", "SUPERVISOR_STATE_CHANGE_STOPPING")
    listener.tell("🤖" * 5000)
    listener.nothing_more()
    assert listener.end() == 0


def test_an_event_that_comes_in_pieces_is_one(begin: Callable[..., Listener]) -> None:
    listener = begin()
    data = "ver:3.0 serial:1 pool:multibot poolserial:0 eventname:TICK_5 len:3\né🤖x".encode()
    for piece in range(0, len(data), 3):
        listener.nothing_more()
        listener.write(data[piece : piece + 3])
    listener.hear(DONE)


def test_the_end_of_supervisord_ends_it_and_is_recorded_unless_it_was_announced(
    begin: Callable[..., Listener],
) -> None:
    listener = begin()
    assert listener.end() == 0
    assert [e.action for e in listener.journalled() if e.door == "listener"] == ["supervisord.died"]
    listener = begin()
    listener.tell("", "SUPERVISOR_STATE_CHANGE_STOPPING")
    assert listener.end() == 0
    assert [e for e in listener.journalled() if e.door == "listener"] == []


NEVER_ENDS = """
import asyncio, sys
from multibot_plugin.supervisor import listener
async def serve(home, stdin, stdout):
    async def stay():
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                pass
    listener.kept = asyncio.create_task(stay())
    await asyncio.sleep(0)
    print("supervisord died", file=sys.stderr)
listener.serve = serve
asyncio.run(listener._serve_and_leave(None, 0, 1))
"""


def test_neither_a_log_that_nobody_reads_nor_a_task_keeps_it_alive() -> None:
    """Its log is a pipe to supervisord: after the death of that one nothing can be written any more."""
    reading, writing = os.pipe()
    os.close(reading)
    process = subprocess.Popen([sys.executable, "-c", NEVER_ENDS], stderr=writing)
    os.close(writing)
    try:
        assert process.wait(PATIENCE_S) in (0, 1)
    finally:
        process.kill()


def test_supervisord_killed_in_the_middle_of_an_event_ends_it(begin: Callable[..., Listener]) -> None:
    listener = begin()
    listener.write(b"ver:3.0 serial:1 poolserial:0 eventname:TICK_5 len:100\nhalf")
    assert listener.end() == 0


@pytest.mark.parametrize(
    "rubbish",
    [
        b"hello\n",
        b"\n",
        b"\xff\xfe\n",
        b"x" * 100_000,
        b"ver:3.0 len:x serial:1 poolserial:1 eventname:T\n",
        b"len:-1 serial:1 poolserial:1 eventname:T\n",
        b"len:99999999999 serial:1 poolserial:1 eventname:T\n",
    ],
)
def test_what_is_no_event_ends_it_so_that_supervisord_begins_anew(
    begin: Callable[..., Listener], rubbish: bytes
) -> None:
    listener = begin()
    with suppress(BrokenPipeError):
        listener.write(rubbish)
    assert listener.process.wait(PATIENCE_S) == 1
    assert "supervisord's protocol is broken" in listener.log()


def test_a_gap_is_noticed_recorded_and_the_fleet_looked_at_again(begin: Callable[..., Listener]) -> None:
    listener = begin()
    listener.tell(pool_serial=7)  # the first may have any number
    listener.tell(pool_serial=8)
    listener.tell(pool_serial=12)
    listener.tell(pool_serial=13)
    listener.wait_log("3 events were lost")
    (lost,) = [e for e in listener.journalled() if e.action == "events.lost"]
    assert lost.detail == {"count": 3}


def test_an_unexpected_end_of_a_bot_is_in_the_journal_before_it_is_acknowledged(begin: Callable[..., Listener]) -> None:
    listener = begin()
    listener.tell(EXITED, "PROCESS_STATE_EXITED", serial=77)
    (entry,) = [e for e in listener.journalled() if e.bot]
    assert (entry.action, entry.bot, entry.actor, entry.detail["pid"]) == ("bot.exited", "echo", "supervisord", "4242")
    listener.tell(EXITED, "PROCESS_STATE_EXITED", serial=77, pool_serial=1)  # again, as after a death of a listener
    assert {e.id for e in listener.journalled() if e.bot} == {entry.id}
    listener.tell(EXITED.replace("expected:0", "expected:1"), "PROCESS_STATE_EXITED", pool_serial=2)
    listener.tell(EXITED.replace("bot-echo", "other"), "PROCESS_STATE_EXITED", pool_serial=3)
    listener.tell(EXITED, "PROCESS_STATE_STOPPED", pool_serial=4)
    listener.tell("processname:bot-shop groupname:bot-shop from_state:BACKOFF", "PROCESS_STATE_FATAL", pool_serial=5)
    early = "processname:bot-shop groupname:bot-shop from_state:STARTING tries:3"
    listener.tell(early, "PROCESS_STATE_BACKOFF", pool_serial=6)
    given_up, failed = [e for e in listener.journalled() if e.bot and e.id != entry.id]
    assert (given_up.action, given_up.bot) == ("bot.gave_up", "shop")
    assert (failed.action, failed.bot, failed.detail["tries"]) == ("bot.start_failed", "shop", "3")


def test_events_are_acknowledged_though_the_journal_cannot_be_written(begin: Callable[..., Listener]) -> None:
    listener = begin()
    listener.wait(lambda: listener.home.journal.is_dir() or "a tick failed" in listener.log(), "first tick")
    if listener.home.journal.exists():
        listener.home.journal.rename(listener.home.state / "moved")
    listener.home.journal.write_text("")
    listener.tell(EXITED, "PROCESS_STATE_EXITED")
    listener.wait_log("bot.exited is not recorded yet")
    listener.tell(EXITED.replace("4242", "4343"), "PROCESS_STATE_EXITED")
    listener.tell()
    listener.home.journal.unlink()
    listener.wait_log("the journal can be written again: 2 entries recorded")
    assert [e.detail["pid"] for e in listener.journalled() if e.bot] == ["4242", "4343"]


class Impatient(Journal):
    """A journal that counts how often it is tried."""

    tries = 0

    def append(self, *entries: Entry) -> None:
        self.tries += 1
        super().append(*entries)


@asynccontextmanager
async def listening(top: Path) -> AsyncIterator[tuple[asyncio.StreamReader, int, Impatient, Protocol]]:
    """The protocol alone, in this process: what it reads, the end where its answers arrive, its journal."""
    reader, (answers, stdout) = asyncio.StreamReader(), os.pipe()
    os.set_blocking(answers, False)
    journal = Impatient(top / "journal", patience_s=0.0)
    protocol = Protocol(stdout, journal, asyncio.Event(), asyncio.Event(), "me", Serials(top / "events", "me"))
    running = asyncio.create_task(protocol.run(reader))
    try:
        await until(lambda: _read_all(answers) == b"READY\n")
        yield reader, answers, journal, protocol
    finally:
        reader.feed_eof()
        await running
        os.close(answers)
        os.close(stdout)


def _read_all(descriptor: int) -> bytes:
    with suppress(BlockingIOError):
        return os.read(descriptor, 65536)
    return b""


def _event(number: int, payload: str = EXITED) -> bytes:
    header = f"serial:{number} poolserial:{number} eventname:PROCESS_STATE_EXITED len:{len(payload)}"
    return f"{header}\n{payload}".encode()


def _taken(journal: Journal) -> list[AuditEntry]:
    """Return what was journalled, and take it away."""
    found: list[AuditEntry] = []
    while (batch := journal.pending()) is not None:
        found.extend(e for e in batch.entries if isinstance(e, AuditEntry))
        journal.done(batch)
    return found


def _pids(journal: Journal) -> list[str]:
    return [e.detail["pid"] for e in _taken(journal) if e.bot]


@contextmanager
def held(journal: Path) -> Iterator[None]:
    """Hold the journal's lock, as another process would."""
    journal.mkdir(exist_ok=True)
    with (journal / "lock").open("ab") as holder:
        fcntl.flock(holder, fcntl.LOCK_EX)
        yield


async def test_while_another_holds_the_journals_lock_events_are_not_acknowledged_and_the_loop_goes_on(
    top: Path,
) -> None:
    async with listening(top) as (reader, answers, journal, _):
        with held(top / "journal"):
            for number in range(5):
                reader.feed_data(_event(number, EXITED.replace("4242", str(number))))
            await until(lambda: journal.tries >= 10)
            assert _read_all(answers) == b""
        heard = bytearray()
        await until(lambda: heard.extend(_read_all(answers)) or heard == DONE * 5)
        assert _pids(journal) == ["0", "1", "2", "3", "4"]


async def test_a_lock_that_is_never_let_go_costs_no_event_and_no_entry(
    top: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener_module, "_HOLD_BACK_S", 0.0)
    async with listening(top) as (reader, answers, journal, protocol):
        heard = bytearray()
        with held(top / "journal"):
            for number in range(20):
                reader.feed_data(_event(number, EXITED.replace("4242", str(number))))
            await until(lambda: heard.extend(_read_all(answers)) or heard == DONE * 20)
            assert journal.tries <= 2  # from then on once in a while
        assert protocol.hand_over() is None
        assert _pids(journal) == [str(number) for number in range(20)]


async def test_events_lost_while_no_listener_lived_are_noticed_by_the_next(top: Path) -> None:
    def lost() -> list[Any]:
        return [e.detail["count"] for e in _taken(Journal(top / "journal")) if e.action == "events.lost"]

    async with listening(top) as (reader, answers, _, _):
        reader.feed_data(_event(7))
        await until(lambda: _read_all(answers) == DONE)
    async with listening(top) as (reader, answers, _, _):
        reader.feed_data(_event(7))  # once more: its listener died before the answer
        await until(lambda: _read_all(answers) == DONE)
        assert lost() == []
        reader.feed_data(_event(10))
        await until(lambda: _read_all(answers) == DONE)
        assert lost() == [2]


def test_without_a_descriptor_to_open_anything_no_event_and_no_entry_is_lost(begin: Callable[..., Listener]) -> None:
    listener = begin()
    listener.wait_log("a tick failed")
    limits = resource.prlimit(listener.process.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(listener.process.pid, resource.RLIMIT_NOFILE, (3, limits[1]))
    for number in range(3):
        listener.tell(EXITED.replace("4242", str(number)), "PROCESS_STATE_EXITED")
    listener.wait_log("Too many open files")
    resource.prlimit(listener.process.pid, resource.RLIMIT_NOFILE, limits)
    listener.wait_log("the journal can be written again: 3 entries recorded")
    assert [e.detail["pid"] for e in listener.journalled() if e.bot] == ["0", "1", "2"]


def test_what_waits_for_the_journal_is_tried_once_more_at_the_end(begin: Callable[..., Listener]) -> None:
    listener = begin()
    listener.tell(EXITED, "PROCESS_STATE_EXITED")
    moved = listener.home.journal.rename(listener.home.state / "moved")
    listener.home.journal.write_text("")
    listener.tell(EXITED.replace("4242", "4343"), "PROCESS_STATE_EXITED")
    listener.home.journal.unlink()
    moved.rename(listener.home.journal)
    assert listener.end() == 0
    assert [e.detail["pid"] for e in listener.journalled() if e.bot] == ["4242", "4343"]


def test_events_are_acknowledged_though_the_settings_are_broken(begin: Callable[..., Listener]) -> None:
    listener = begin()
    listener.wait_log("a tick failed")  # there is no supervisord
    listener.home.toml.write_text("nonsense")
    listener.wait_log("the monitor goes on with what it has")
    listener.tell()
    listener.home.toml.write_text("[monitor]\ntick_s = 0.2\n")
    listener.wait_log("has changed: the monitor begins anew")
    listener.tell()
    assert listener.end() == 0


NOISY = """
import os, subprocess, sys
print("from the import")
os.write(1, b"straight to the descriptor\\n")
from multibot_plugin.hookspecs import hookimpl
@hookimpl
def multibot_configure(info):
    print("from configure")
    sys.__stdout__.write("from the real stdout\\n"); sys.__stdout__.flush()
    subprocess.run(["echo", "from a child"], check=True)
    assert sys.stdin.read() == ""
    print("configured")
@hookimpl
def multibot_check(observation):
    print("checking", observation.bot, observation.launch)
"""


def fleet() -> FakeSupervisor:
    return FakeSupervisor(Clock(wall=time.time(), mono=time.monotonic()), {"echo": process(pid=os.getpid())})


def test_nothing_that_a_plugin_prints_reaches_supervisord(begin: Callable[..., Listener], top: Path) -> None:
    (top / "home" / "run").mkdir(parents=True)
    with supervisord(top / "home" / "run" / "supervisor.sock", fleet().bots):
        listener = begin(NOISY)
        for line in ("from the import", "straight to the descriptor", "from configure", "from the real stdout",
                     "from a child", "configured", "checking echo unknown"):  # fmt: skip
            listener.wait_log(line)
        listener.tell()
        listener.nothing_more()
        listener.wait(listener.home.status.is_file, "status.json")
        status = json.loads(listener.home.status.read_text())
        assert status["pid"] == listener.process.pid
        assert status["bots"]["echo"]["memory_bytes"] > 0
        assert status["bots"]["echo"]["cause"] == "no heartbeat yet"
        assert {p["name"]: p["disabled"] for p in status["plugins"]}["stranger"] is False
        assert listener.end() == 0


HANGING = """
import threading
from multibot_plugin.hookspecs import hookimpl
@hookimpl
def multibot_check(observation):
    threading.Event().wait()
"""


def test_a_plugin_that_hangs_keeps_neither_events_nor_the_end_waiting(
    begin: Callable[..., Listener], top: Path
) -> None:
    (top / "home" / "run").mkdir(parents=True)
    with supervisord(top / "home" / "run" / "supervisor.sock", fleet().bots):
        listener = begin(HANGING)
        for _ in range(20):
            listener.tell()
        listener.wait_log("plugin stranger is disabled")
        listener.wait(lambda: listener.home.status.is_file(), "status.json")
        listener.tell()
        assert listener.end() == 0


def test_a_monitor_killed_leaves_what_the_next_one_needs(begin: Callable[..., Listener], top: Path) -> None:
    """Killed with SIGKILL at any moment: the files are whole, and the next one begins."""
    (top / "home" / "run").mkdir(parents=True)
    with supervisord(top / "home" / "run" / "supervisor.sock", fleet().bots):
        listener = begin()
        listener.wait(listener.home.status.is_file, "status.json")
        listener.process.send_signal(signal.SIGKILL)
        listener.process.wait(PATIENCE_S)
        json.loads(listener.home.status.read_text())
        json.loads((listener.home.state / "monitor.json").read_text())
        assert [e.action for e in listener.journalled()] == ["monitor.started"]


def test_a_monitor_that_somebody_stops_leaves_at_once_and_notes_it(begin: Callable[..., Listener]) -> None:
    listener = begin()
    listener.tell()
    listener.process.send_signal(signal.SIGTERM)
    assert listener.process.wait(PATIENCE_S) == 0
    assert (listener.home.run / "monitor.stopped").exists()


def test_a_request_is_carried_out_and_foreign_events_mean_nothing(begin: Callable[..., Listener]) -> None:
    listener = begin()
    requests = Requests(listener.home.state, lambda request: listener.tell(f"type:multibot\n{request}", REMOTE))
    listener.tell("type:somebody else\nstopBot", REMOTE)
    listener.tell("type:x processname:bot-echo expected:0\n", REMOTE)
    listener.tell("", REMOTE)
    request = requests.ask("startBot", "echo", "ada")
    listener.wait(lambda: requests.result(request)["state"] == "failed", "result")
    found = requests.result(request)
    assert (found["exit_code"], found["text"].partition(" in ")[0]) == (5, "no installation")
    assert "startBot echo (ada): no installation" in listener.log()
    assert {entry.action for entry in listener.journalled()} <= {"monitor.started"}
    assert listener.end() == 0


@pytest.mark.parametrize("kills", [0, 3])
def test_of_a_thousand_ends_none_is_lost_or_counted_twice(begin: Callable[..., Listener], kills: int) -> None:
    """Killed before, while or after it writes: supervisord tells the event that was not answered once more."""
    listener, rounds = begin(), random.Random(7)
    moments = set(rounds.sample(range(10, 990), kills))
    for number in range(1000):
        say = partial(listener.say, EXITED.replace("4242", str(number)), "PROCESS_STATE_EXITED", pool_serial=number)
        say(serial=number)
        if number in moments:
            select.select([listener.process.stdout], [], [], rounds.uniform(0, 0.001))
            listener.kill()
            say(serial=number)
        listener.hear(DONE)
    ends = {e.id: e.detail["pid"] for e in listener.journalled() if e.bot}
    assert list(ends.values()) == [str(number) for number in range(1000)]
