"""circus and pm2, pinned and installed below build/bench, behind the interface of managers.py."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import IO

from document import ROOT
from fleet import Fleet
from managers import BENCH, Child, Manager, Words

CIRCUS, PM2 = "0.19.0", "7.0.4"
HOME = ROOT / "build" / "bench"
STOP_WAIT_S = 12  # as in the sections that multibot renders


def install(names: set[str]) -> None:
    """Install what is missing of ``names``; raises SystemExit in one line where that cannot work."""
    circus, pm2 = HOME / f"circus-{CIRCUS}", HOME / f"pm2-{PM2}"
    HOME.mkdir(parents=True, exist_ok=True)
    with (HOME / "install.log").open("w") as log:
        if "circus" in names and not (circus / "complete").exists():
            python = getattr(sys, "_base_executable", sys.executable)
            _install(circus, [python, "-m", "venv", str(circus)], log)
            _install(circus, [str(circus / "bin/python"), "-m", "pip", "install", f"circus=={CIRCUS}"], log)
            (circus / "complete").touch()
        if "pm2" in names and not (pm2 / "complete").exists():
            if not (shutil.which("npm") and shutil.which("node")):
                raise SystemExit("bench: pm2 needs node and npm: install them, or leave it out with --managers")
            _install(pm2, ["npm", "install", "--no-audit", "--no-fund", "--prefix", str(pm2), f"pm2@{PM2}"], log)
            (pm2 / "complete").touch()


def _install(directory: Path, words: list[str], log: IO[str]) -> None:
    directory.mkdir(exist_ok=True)
    if subprocess.run(words, stdout=log, stderr=log, stdin=subprocess.DEVNULL, check=False).returncode:
        raise SystemExit(f"bench: {directory.name} could not be installed: see {HOME / 'install.log'}")


class Circus(Child):
    """circusd: a watcher per program, its log kept by circus as supervisord keeps it."""

    name = "circus"
    _bin = HOME / f"circus-{CIRCUS}" / "bin"

    def __init__(self, fleet: Fleet) -> None:
        super().__init__(fleet)
        self._ini = self.directory / "circus.ini"
        self._endpoint = f"ipc://{self.directory}/control"

    def configure(self) -> None:
        def watcher(bot: str) -> str:
            log, words = self.directory / f"{bot}.log", " ".join(self.fleet.words(bot))
            return (
                f"[watcher:{bot}]\ncmd = {self.fleet.script} {words}\n"
                f"graceful_timeout = {STOP_WAIT_S}\ncopy_env = True\n"
                f"stdout_stream.class = FileStream\nstdout_stream.filename = {log}\n"
                f"stderr_stream.class = FileStream\nstderr_stream.filename = {log}\n"
            )

        head = f"[circus]\nendpoint = {self._endpoint}\npubsub_endpoint = ipc://{self.directory}/events\n"
        self._ini.write_text("\n".join([head, *map(watcher, self.fleet.ids)]))

    def begin(self) -> None:
        self.spawn(str(self._bin / "circusd"), "--log-output", str(self.directory / "circus.log"), str(self._ini))

    def ctl(self, *words: str) -> Words:
        return (str(self._bin / "circusctl"), "--timeout", "300", "--endpoint", self._endpoint, *words)

    @property
    def status(self) -> Words:
        return self.ctl("status")

    @property
    def stop(self) -> Words:
        return self.ctl("stop")

    @property
    def shutdown(self) -> Words:
        return self.ctl("quit")

    @property
    def probe(self) -> Words:
        return (str(self._bin / "python"), str(BENCH / "probe.py"), "circus", self._endpoint)

    def change(self, bot: str, version: int) -> Words:
        self.fleet.versions[bot] = version
        self.configure()
        return self.ctl("reloadconfig")


class Pm2(Manager):
    """pm2's daemon: an app per program in fork mode, no interpreter; SIGTERM, which is not its default."""

    name = "pm2"
    _package = HOME / f"pm2-{PM2}" / "node_modules" / "pm2"

    def __init__(self, fleet: Fleet) -> None:
        super().__init__(fleet)
        self._home = self.directory / "pm2"
        self._apps = self.directory / "apps.json"
        self.environment |= {
            "PM2_HOME": str(self._home), "PM2_KILL_SIGNAL": "SIGTERM", "PM2_DISABLE_VERSION_CHECK": "true",
        }  # fmt: skip

    def configure(self) -> None:
        def app(bot: str) -> dict[str, object]:
            log = str(self.directory / f"{bot}.log")
            return {"name": bot, "script": str(self.fleet.script), "args": self.fleet.words(bot), "interpreter": "none",
                    "exec_mode": "fork", "out_file": log, "error_file": log, "kill_timeout": STOP_WAIT_S * 1000,
                    "vizion": False, "pmx": False}  # fmt: skip

        self._apps.write_text(json.dumps({"apps": [app(bot) for bot in self.fleet.ids]}))

    def begin(self) -> None:
        self.run(self.ctl("start", str(self._apps)))

    @property
    def daemon(self) -> int:
        with contextlib.suppress(OSError, ValueError):
            return int((self._home / "pm2.pid").read_text())
        return 0

    def ctl(self, *words: str) -> Words:
        return ("node", str(self._package / "bin/pm2"), *words)

    @property
    def status(self) -> Words:
        return self.ctl("jlist")

    @property
    def stop(self) -> Words:
        return self.ctl("stop", "all")

    @property
    def shutdown(self) -> Words:
        return self.ctl("kill")

    @property
    def probe(self) -> Words:
        return ("node", str(BENCH / "probe_pm2.js"), str(self._package), str(self._home / "rpc.sock"))

    def change(self, bot: str, version: int) -> Words:
        self.fleet.versions[bot] = version
        self.configure()
        return self.ctl("restart", str(self._apps), "--only", bot)
