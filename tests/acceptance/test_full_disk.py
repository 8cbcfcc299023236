"""Everything is full, from the database to the bots' heartbeats: they poll on, it is told, and nothing is lost."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from system import System, wait_for

from multibot_plugin.journal import Journal

BOTS = ("build", "script", "command")
SIZE_MB = 192


@contextlib.contextmanager
def small_disk(directory: Path) -> Iterator[None]:
    """Have ``directory`` on a disk of its own; afterwards it is what it was before."""
    aside = directory.with_suffix(".aside")
    directory.rename(aside)
    directory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE_MB}m,mode=755", "tmpfs", str(directory)], check=True)
    try:
        subprocess.run(["cp", "-a", f"{aside}/.", str(directory)], check=True)
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)
        directory.rmdir()
        aside.rename(directory)


def fill(directory: Path) -> Path:
    """Leave no room on the disk, and return what to remove to have it again."""
    ballast = directory / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(b"x" * 65536):
            pass
    assert shutil.disk_usage(directory).free == 0
    return ballast


@pytest.mark.root
def test_on_a_full_disk_bots_poll_on_it_is_told_and_everything_is_recorded_later() -> None:
    with System.create(start=False) as system, small_disk(system.home.config):
        system.run("start")
        for form in BOTS:
            system.create_form(form, form, "--deaf-after-s", "7s", "--start-grace-s", "5s")
        system.wait_polling(*BOTS)
        pids = {bot: system.pid(bot) for bot in BOTS}
        supervisord, rendered = system.supervisord_pid, system.home.rendered.read_text()

        ballast = fill(system.home.config)
        os.kill(pids["script"], signal.SIGKILL)
        wait_for(lambda: system.pid("script") != pids["script"], "script again")
        system.wait_polling(*BOTS)
        for bot in BOTS:
            system.answers(bot)
        system.wait_alert("multibot", "No space left on device")
        failed = system.run("bot", "set", "command", "--env", "A=1", code=None)
        assert failed.returncode in (1, 5)
        assert len(failed.stderr.splitlines()) <= 3, failed.stderr
        assert system.home.rendered.read_text() == rendered
        assert "No space left on device" in system.run("bot", "stop", "command").stderr
        assert system.polls("command") == 0

        ballast.unlink()
        wait_for(lambda: system.audit("script", "bot.exited"), "the death in the audit log")
        wait_for(lambda: Journal(system.home.journal).size() == 0, "nothing left to record")
        wait_for(lambda: not system.status()["incidents"], "all well again")
        (death,) = system.audit("script", "bot.exited")
        assert str(pids["script"]) in str(death["detail"])
        system.run("apply")
        assert not system.row("command")["enabled"]
        system.run("bot", "start", "command")
        system.wait_polling(*BOTS)
        assert system.supervisord_pid == supervisord
        assert system.pid("build") == pids["build"]
        assert not [text for text in system.alerts() if "deaf" in text]
        system.end()
