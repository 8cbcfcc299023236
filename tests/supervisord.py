"""A real supervisord with our plugin, for tests: started in a short directory, always stopped.

What its bot sections run is a stand-in for the interpreter (``STAND_IN``): it takes the runner's arguments and behaves
by the bot's id, so that these tests are about supervisord and not about the runner.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import psutil

from multibot_plugin.bots.apply import apply, load
from multibot_plugin.bots.conform import Applied
from multibot_plugin.bots.plan import Plan
from multibot_plugin.home import Home
from multibot_plugin.settings import Settings
from multibot_plugin.settings import load as load_settings
from multibot_plugin.supervisor.client import Supervisor
from multibot_plugin.supervisor.conf import install_main

_T = TypeVar("_T")
PATIENCE_S = 30.0
TOKEN_TAIL = "AAabcdefghijklmnopqrstuvwxyz0123456"
BIN = Path(sys.executable).parent

# Arguments: -P -m multibot_runner ID DIGEST. slow-*: two seconds to stop, both ends told in the file "stand-in.stops";
# deaf-*: ignores SIGTERM; final-*: exit 78; dies-*: exit 1; quits-*: exit 1 at once.
STAND_IN = """#!/bin/sh
case "$4" in
  slow-*)
    trap 'echo told "$4" >>"$0.stops"; sleep 2; echo ended "$4" >>"$0.stops"; exit 0' TERM
    while :; do sleep 0.1; done ;;
  deaf-*) trap '' TERM; while :; do sleep 0.1; done ;;
  final-*) sleep 1.6; exit 78 ;;
  dies-*) sleep 1.6; exit 1 ;;
  quits-*) exit 1 ;;
esac
exec sleep 3600
"""


def wait_for(condition: Callable[[], _T], what: str, patience_s: float = PATIENCE_S) -> _T:
    """Return the first true result of ``condition``; fail with ``what`` when there is none in time."""
    deadline = time.monotonic() + patience_s
    while not (result := condition()):
        assert time.monotonic() < deadline, f"waited {patience_s:g} s for {what}"
        time.sleep(0.05)
    return result


# Not those of installations that other tests make at the same time: a bot's processes are looked for by it.
UIDS = 92_000 + os.getpid() % 350 * 20


def make_home(directory: Path) -> Home:
    return Home(directory, directory / "state", directory / "run", directory / "log", f"--home {directory}")


def row(bot: str, number: int = 1, **changes: Any) -> dict[str, Any]:
    """Return a row of bot_configs that can be used as it is; ``number`` makes token and user id its own."""
    columns: dict[str, Any] = {
        "id": bot,
        "enabled": True,
        "launch": "command",
        "target": "/bin/true",
        "token": f"{100000 + number}:{TOKEN_TAIL}",
        "env": {},
        "settings": {},
        "uid": UIDS + number if os.geteuid() == 0 else None,
        "config_version": 1,
    }
    return columns | changes


def rows(*bots: str, **changes: Any) -> dict[str, dict[str, Any]]:
    return {bot: row(bot, number, **changes) for number, bot in enumerate(bots, start=1)}


def is_dead(process: psutil.Process) -> bool:
    """Whether a process has ended; the host's init may let an orphan wait for a while."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


class Supervisord:
    """An installation in ``directory`` with a supervisord that can be started and stopped."""

    def __init__(self, directory: Path, settings: Settings | None = None) -> None:
        self.home = make_home(directory)
        self.settings = settings or load_settings(self.home.toml, environ={})
        self.process: subprocess.Popen[bytes] | None = None
        self.stand_in = directory / "stand-in"
        self.stand_in.write_text(STAND_IN)
        self.stand_in.chmod(0o755)
        install_main(self.home, python=str(self.stand_in))
        self.client = Supervisor.of(self.home)

    def start(self) -> Supervisord:
        words = [str(BIN / "supervisord"), "--nodaemon", "--configuration", str(self.home.supervisord_conf)]
        # Its own words are in its log file; stdin closed, as under systemd.
        self.process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        wait_for(self.client.alive, "supervisord")
        return self

    def stop(self) -> None:
        """Let it stop everything; kill what is left, and fail if something was."""
        self.client.close()
        if self.process is None:
            return
        family = self.family()
        if self.process.poll() is None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(PATIENCE_S)
        # What a shell was waiting for when it was told to end may live a moment longer.
        _, left = psutil.wait_procs(family, timeout=5)
        left = [process for process in left if not is_dead(process)]
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait(PATIENCE_S)
        self.process = None
        assert not left, left

    def option(self, line: str) -> None:
        """Add an option to the section [rpcinterface:multibot], for the next start."""
        text = self.home.supervisord_conf.read_text()
        self.home.supervisord_conf.write_text(text.replace("\nstatus=", f"\n{line}\nstatus=", 1))

    def reload(self) -> None:
        """Let stock supervisorctl restart supervisord in place, and wait until it answers again."""
        count = self.log().count("'multibot' initialized")
        self.ctl("reload")
        wait_for(lambda: self.log().count("'multibot' initialized") > count and self.client.alive(), "the reload")

    def stops(self) -> list[str]:
        """Return what the slow bots told, in its order: ``told ID`` at SIGTERM, ``ended ID`` two seconds later."""
        return Path(f"{self.stand_in}.stops").read_text().splitlines()

    def log(self) -> str:
        return self.home.supervisord_log.read_text()

    def family(self) -> list[psutil.Process]:
        assert self.process is not None
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(self.process.pid)
            return [process, *process.children(recursive=True)]
        return []

    def ctl(self, *words: str, code: int | None = 0) -> str:
        """Run the stock supervisorctl and return what it said."""
        done = subprocess.run([str(BIN / "supervisorctl"), "-c", str(self.home.supervisord_conf), *words],
                              capture_output=True, text=True, timeout=60, check=False)  # fmt: skip
        assert code is None or done.returncode == code, (words, done.returncode, done.stdout, done.stderr)
        return done.stdout

    def plan(self, rows: Mapping[str, Mapping[str, Any]]) -> Plan:
        taken = self.client.foreign() if self.client.alive() else frozenset()
        return load(self.home, self.settings, rows.values(), python=str(self.stand_in), taken=taken)

    def apply(self, rows: Mapping[str, Mapping[str, Any]], force: bool = False) -> Applied:
        """Plan and apply ``rows``."""
        return apply(self.home, self.plan(rows), self.client, force=force)

    def rows(self) -> dict[str, dict[str, Any]]:
        return {row["id"]: row for row in self.client.bots()["bots"]}

    def pids(self) -> dict[str, int]:
        return {bot: row["pid"] for bot, row in self.rows().items()}

    def states(self) -> dict[str, str]:
        return {bot: row["statename"] for bot, row in self.rows().items()}

    def wait_state(self, state: str, *bots: str) -> None:
        wait_for(lambda: set(map(self.states().get, bots)) == {state}, f"{bots} {state}")


@contextlib.contextmanager
def supervisord(prepare: Callable[[Supervisord], None] = lambda system: None) -> Iterator[Supervisord]:
    """Give a running supervisord without bots; afterwards nothing of it is left. ``prepare`` its files."""
    directory = Path(tempfile.mkdtemp(prefix="mb-", dir="/tmp"))
    directory.chmod(0o755)
    system = Supervisord(directory)
    prepare(system)
    try:
        yield system.start()
    finally:
        try:
            system.stop()
        finally:
            shutil.rmtree(directory)
