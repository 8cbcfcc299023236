"""What the tests of the runner share: a bot's files as ``apply`` writes them, and the runner as supervisord does."""

from __future__ import annotations

import contextlib
import itertools
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from multibot_runner.protocol import (
    RUN_VARIABLE,
    STATE_VARIABLE,
    BadFile,
    BotPaths,
    Exit,
    Heartbeat,
    Run,
    RunnerSettings,
    decode,
    decode_runs,
    encode,
    read_file,
    replace_file,
)

T = TypeVar("T")
ROOT = os.geteuid() == 0
_UIDS = itertools.count(71_001 + os.getpid() % 20_000)
_PATIENCE_S = 30.0


def new_token() -> str:
    return f"{secrets.randbelow(10**9) + 10**9}:AA{secrets.token_urlsafe(48)[:33]}"


def wait_for(condition: Callable[[], T], what: str) -> T:
    """Return the first true value of ``condition``; fails when none comes."""
    deadline = time.monotonic() + _PATIENCE_S
    while not (value := condition()):
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.01)
    return value


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in ("Z", "X")


@dataclass
class Bot:
    """A bot on disk. ``log`` is what its process wrote."""

    place: Place
    id: str
    token: str
    uid: int | None
    digest: str = ""
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def paths(self) -> BotPaths:
        return BotPaths(self.place.state, self.place.run, self.id)

    @property
    def log_file(self) -> Path:
        return self.place.top / f"{self.id}.log"

    @property
    def log(self) -> str:
        return self.log_file.read_text() if self.log_file.exists() else ""

    @property
    def runs(self) -> tuple[Run, ...]:
        try:
            return decode_runs(read_file(self.paths.runs))
        except BadFile:
            return ()

    @property
    def heartbeat(self) -> Heartbeat | None:
        try:
            return decode(Heartbeat, read_file(self.paths.heartbeat))
        except BadFile:
            return None

    @property
    def exit(self) -> Exit:
        found = self.runs[0].exit
        assert found is not None
        return found

    def start(self, *, through: tuple[str, ...] = (), **environment: str) -> subprocess.Popen[bytes]:
        """Start the runner, its output into the log; ``through`` is put before the command."""
        with self.log_file.open("ab") as log:
            process = subprocess.Popen(
                [*through, sys.executable, "-P", "-m", "multibot_runner", self.id, self.digest],
                env={**self.place.environment, **environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.processes.append(process)
        return process

    def run_to_end(self, **environment: str) -> int:
        """Start the runner and return its exit code (below 0: the signal that ended it)."""
        return self.start(**environment).wait(_PATIENCE_S)

    def phase(self, process: subprocess.Popen[bytes], phase: str) -> Heartbeat:
        """Wait until this process says that it is in this phase."""

        def said() -> Heartbeat | None:
            found = self.heartbeat
            return found if found and found.pid == process.pid and found.phase == phase else None

        return wait_for(said, f"{self.id} in phase {phase}; its log: {self.log}")

    def said(self, text: str) -> None:
        wait_for(lambda: text in self.log, f"{text!r} in the log of {self.id}; its log: {self.log}")


class Place:
    """State and runtime directories in a short temporary directory, readable for every user."""

    def __init__(self) -> None:
        self.top = Path(tempfile.mkdtemp(prefix="mbr-", dir="/tmp"))
        self.state, self.run = self.top / "state", self.top / "run"
        for directory in (self.top, self.state, self.state / "bots", self.run):
            directory.mkdir(exist_ok=True)
            directory.chmod(0o755)
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("MULTIBOT_", "SUPERVISOR_"))}
        files = {STATE_VARIABLE: str(self.state), RUN_VARIABLE: str(self.run)}
        self.environment = {**kept, **files, "NO_PROXY": "127.0.0.1"}  # for the sandbox
        self.bots: list[Bot] = []

    def bot(self, launch: str, target: str, *, token: str | None = None, bot: Bot | None = None, **wish: Any) -> Bot:
        """Write a bot's settings and token under a new digest; ``bot``: a new version of that one."""
        if bot is None:
            number = len(self.bots) + 1
            bot = Bot(self, f"bot-{number}", token or new_token(), next(_UIDS) if ROOT else None)
            self.bots.append(bot)
        bot.digest = secrets.token_hex(8)
        defaults = RunnerSettings(
            bot=bot.id, launch=launch, target=target, token_var="BOT_TOKEN", env={}, env_file="", workdir="",
            python="", uid=bot.uid, user="", bot_api_url="http://127.0.0.1:9", stop_wait_s=5.0, poll_timeout_s=5.0,
            backoff_max_s=300.0, backoff_reset_s=600.0, quarantine_after=10, quarantine_retry_s=3600.0,
            restart="always", receives="auto", port=0, webhook_url="", webhook_listen="127.0.0.1", watchdog_s=0.0,
            log_format="plain", log_max_size=10 * 1024**2, log_backups=3, log_rate=0,
        )  # fmt: skip
        settings = RunnerSettings(**{**asdict(defaults), **wish})
        bot.paths.state_dir.mkdir(exist_ok=True)
        owner = (bot.uid, bot.uid) if bot.uid else None
        replace_file(bot.paths.settings(bot.digest), encode(settings), 0o400, owner)
        replace_file(bot.paths.token(bot.digest), bot.token.encode(), 0o400, owner)
        return bot

    def script(self, source: str, **wish: Any) -> Bot:
        """Write a script and a bot that runs it."""
        return self.bot("script", str(self.file("bot.py", source)), **wish)

    def file(self, name: str, source: str) -> Path:
        path = self.top / "bots" / str(len(self.bots)) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(source))
        return path

    def end(self) -> None:
        """Kill and remove everything."""
        for bot in self.bots:
            for process in bot.processes:
                if process.poll() is None:
                    process.kill()
                process.wait(_PATIENCE_S)
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not self.processes(), "every process gone")
        shutil.rmtree(self.top)

    def processes(self) -> list[int]:
        """Return living processes that mention this directory."""
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            with contextlib.suppress(OSError):
                text = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
                if str(self.top).encode() in text and alive(int(entry.name)):
                    found.append(int(entry.name))
        return found


@contextlib.contextmanager
def a_place() -> Iterator[Place]:
    place = Place()
    try:
        yield place
    finally:
        place.end()
