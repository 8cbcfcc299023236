"""An installation that the command line itself makes, starts and stops, for tests of exactly that."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from postgres import short_directory
from system import of_directory, wait_for

from multibot_plugin.home import Home, find_home
from multibot_plugin.supervisor.client import Supervisor

CLI = (sys.executable, "-P", "-m", "multibot_plugin.cli")


@dataclass
class Installation:
    """``directory`` holds the home; ``user`` is the account that runs the commands (None: ours)."""

    directory: Path
    user: str | None

    @property
    def home(self) -> Home:
        return find_home(str(self.directory / "h"))

    def alive(self) -> bool:
        """Return whether supervisord answers."""
        with Supervisor.of(self.home) as supervisor:
            return supervisor.alive()

    def pid(self) -> int:
        """Return supervisord's pid."""
        with Supervisor.of(self.home) as supervisor:
            return supervisor.pid()

    def popen(self, *words: str, **env: str) -> subprocess.Popen[str]:
        """Start a command of the command line, with pipes."""
        base = {k: v for k, v in os.environ.items() if not k.startswith(("MULTIBOT_", "SUPERVISOR_"))}
        who = {}
        if self.user is not None:
            entry = pwd.getpwnam(self.user)
            who = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
            base |= {"HOME": str(self.directory), "USER": self.user, "LOGNAME": self.user}
        pipe = subprocess.PIPE
        return subprocess.Popen([*CLI, "--home", str(self.directory / "h"), *words], text=True, env=base | env, cwd="/",
                                stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, **who)  # fmt: skip

    def run(self, *words: str, code: int = 0, **env: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end and expect its exit code."""
        process = self.popen(*words, **env)
        out, err = process.communicate(timeout=120)
        assert process.returncode == code, f"{' '.join(words)}: exit {process.returncode}\n{out}\n{err}"
        return subprocess.CompletedProcess(words, process.returncode, out, err)


@contextmanager
def installation(user: str | None = None) -> Iterator[Installation]:
    """A short directory for an installation; everything of it is stopped and removed at the end."""
    with short_directory() as directory:
        if user is not None:
            os.chown(directory, pwd.getpwnam(user).pw_uid, pwd.getpwnam(user).pw_gid)
        made = Installation(directory, user)
        try:
            yield made
        finally:
            if made.home.supervisord_conf.exists():
                made.popen("stop", "--now", "--yes").communicate(timeout=120)
            left = of_directory(directory)
            for process in left:
                process.kill()
            wait_for(lambda: not of_directory(directory), "every process gone")
    assert not left, f"left behind: {left}"
