"""Stock supervisord, and supervisord with multibot's parts, behind one interface. peers.py has the other two.

Both run the very sections that multibot renders, under the main file that multibot writes; stock's lacks our parts.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from xmlrpc.client import ServerProxy

import bots
from fleet import PATIENCE_S, Fleet, end_all, wait
from supervisor.xmlrpc import SupervisorTransport

from multibot_plugin.bots.apply import write
from multibot_plugin.bots.render import split_sections
from multibot_plugin.home import Home
from multibot_plugin.supervisor.client import Supervisor
from multibot_plugin.supervisor.conf import make_directories, render_main

BIN, BENCH = Path(sys.executable).parent, Path(__file__).resolve().parent
LISTENER = "eventlistener:multibot"
OURS = ("rpcinterface:multibot", "ctlplugin:multibot", LISTENER)
Words = Sequence[str]


class Manager(ABC):
    """One manager of processes with a fleet of its own. ``name`` is its column."""

    name: str

    def __init__(self, fleet: Fleet) -> None:
        self.fleet, self.directory = fleet, fleet.directory
        # The same little environment for all, handed on to their programs; HOME tells whose they are (end_all).
        self.environment = {"PATH": os.environ["PATH"], "HOME": str(self.directory), "LANG": "C.UTF-8"}

    @abstractmethod
    def configure(self) -> None:
        """Write what it needs before its start."""

    @abstractmethod
    def begin(self) -> None:
        """Start it with all programs; returns at once or when its own command does."""

    @property
    @abstractmethod
    def daemon(self) -> int:
        """The daemon's pid, 0 before it has one."""

    @property
    @abstractmethod
    def status(self) -> Words:
        """The command that shows all programs."""

    @property
    @abstractmethod
    def stop(self) -> Words:
        """The command that stops all programs and leaves the daemon."""

    @property
    @abstractmethod
    def shutdown(self) -> Words:
        """The command that stops the daemon with all programs."""

    @property
    @abstractmethod
    def probe(self) -> Words:
        """The command of a probe (probe.py)."""

    @abstractmethod
    def change(self, bot: str, version: int) -> Words:
        """Change the configuration of one program; return the command that lets the daemon follow."""

    def run(self, words: Words) -> None:
        """Run a command to its end; raises RuntimeError with its last words."""
        done = subprocess.run(words, env=self.environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              check=False, timeout=PATIENCE_S)  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"{' '.join(words)}: exit {done.returncode}: {(done.stdout + done.stderr)[-1000:]}")

    def close(self) -> None:
        """Kill it and everything of it that lives."""
        end_all(self.directory)


class Child(Manager):
    """A daemon that stays our child."""

    process: subprocess.Popen[bytes] | None = None

    def spawn(self, *words: str) -> None:
        with (self.directory / "daemon.out").open("wb") as out:
            self.process = subprocess.Popen(words, env=self.environment, stdin=subprocess.DEVNULL,
                                            stdout=out, stderr=out, cwd=self.directory)  # fmt: skip

    @property
    def daemon(self) -> int:
        return self.process.pid if self.process else 0

    def close(self) -> None:
        super().close()
        if self.process:
            self.process.wait(PATIENCE_S)


class Stock(Child):
    """supervisord as it is."""

    name = "stock"
    parts: tuple[str, ...] = ()

    def __init__(self, fleet: Fleet) -> None:
        super().__init__(fleet)
        top = self.directory
        self.home = Home(top, top / "state", top / "run", top / "log", f"--home {top}")
        self.client = Supervisor(self.home.socket, timeout_s=PATIENCE_S)

    def configure(self) -> None:
        make_directories(self.home)
        self.home.supervisord_conf.write_text(self._main())
        write(self.home, bots.plan(self.home, self.fleet.script, self.fleet.ids))

    def begin(self) -> None:
        self.spawn(str(BIN / "supervisord"), "--nodaemon", "--configuration", str(self.home.supervisord_conf))

    def _main(self) -> str:
        """Return the main file with these ``parts`` of ours, and descriptors for as many programs."""
        left_out = set(OURS) - set(self.parts)
        text = "\n\n".join(body for name, body in split_sections(render_main(self.home)) if name not in left_out)
        return re.sub(r"^minfds=.*$", f"minfds={1024 if len(self.fleet.ids) <= 300 else 4096}", text, flags=re.M)

    def ctl(self, *words: str) -> Words:
        return (str(BIN / "supervisorctl"), "-c", str(self.home.supervisord_conf), *words)

    @property
    def status(self) -> Words:
        return self.ctl("status")

    @property
    def stop(self) -> Words:
        return self.ctl("stop", "all")

    @property
    def shutdown(self) -> Words:
        return self.ctl("shutdown")

    @property
    def probe(self) -> Words:
        return (sys.executable, str(BENCH / "probe.py"), "supervisord", str(self.home.socket))

    def change(self, bot: str, version: int) -> Words:
        text = self.home.rendered.read_text()
        text = re.sub(rf"(multibot_runner {bot}) [0-9a-f]{{16}}$", rf"\1 {version:016x}", text, flags=re.M)
        self.home.rendered.write_text(text)
        return self.ctl("update")

    def get_all_process_info(self) -> None:
        """Ask by supervisor's own client, as supervisorctl and the tools around it do."""
        transport = SupervisorTransport(None, None, f"unix://{self.home.socket}")
        proxy = ServerProxy("http://127.0.0.1", transport=transport)
        proxy.supervisor.getAllProcessInfo()
        proxy("close")()

    def all_states(self) -> None:
        """Ask for the state of every program, as a client of this kind does it."""
        self.get_all_process_info()

    def close(self) -> None:
        self.client.close()
        super().close()


class Multibot(Stock):
    """supervisord with our interface inside; the monitor is added by ``watch``."""

    name = "multibot"
    parts = ("rpcinterface:multibot", "ctlplugin:multibot")

    def multibot(self, *words: str) -> Words:
        return (str(BIN / "multibot"), "--home", str(self.directory), *words)

    @property
    def status(self) -> Words:
        return self.multibot("list")

    @property
    def stop(self) -> Words:
        return self.multibot("bot", "stop", "--all")

    @property
    def shutdown(self) -> Words:
        return self.multibot("stop", "--yes")

    def change(self, bot: str, version: int) -> Words:
        count = str(len(self.fleet.ids))
        return (sys.executable, str(BENCH / "bots.py"), str(self.directory), count, bot, str(version))

    def all_states(self) -> None:
        self.client.bots()

    def watch(self) -> int:
        """Add the monitor to the running supervisord; return its pid once it has looked at the fleet."""
        section = dict(split_sections(render_main(self.home)))[LISTENER]
        (self.home.config / "conf.d" / "monitor.conf").write_text(section + "\n")
        self.client.reread()
        self.client.add("multibot")
        wait(lambda: self.client.bots()["monitor"]["ok"], "the monitor's first look")
        return self.client.running("multibot")


def longest_gap(output: str) -> float:
    """Return the longest wait for an answer, in seconds, out of what a probe printed at its end."""
    return float(json.loads(output.strip().splitlines()[-1])["longest_s"])
