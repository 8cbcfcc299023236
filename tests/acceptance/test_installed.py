"""The built wheel in a fresh environment, outside the clone: the demo runs, strangers' plugins act."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from system import System, leave_nothing, of_directory, wait_for

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def environment() -> Iterator[Path]:
    """A virtual environment with nothing but our built wheel and what it asks for."""
    directory = Path(tempfile.mkdtemp(prefix="mbw-", dir="/tmp"))
    directory.chmod(0o755)
    try:
        source = directory / "source"
        shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(".*", "build", "*.egg-info"))
        build_wheel(source, directory)
        base = "/usr/bin/python3" if os.geteuid() == 0 else sys.executable
        subprocess.run([base, "-m", "venv", str(directory / "venv")], check=True)
        wheel = next(directory.glob("supervisor_multibot-*.whl"))
        pip(directory / "venv", f"{wheel}[embedded,sandbox]")
        shutil.rmtree(source)
        yield directory / "venv"
    finally:
        shutil.rmtree(directory)


def build_wheel(source: Path, out: Path) -> None:
    words = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(out), str(source)]
    subprocess.run(words, check=True)


def pip(venv: Path, *what: str) -> None:
    subprocess.run([str(venv / "bin" / "python"), "-m", "pip", "install", "--quiet", *what], check=True)


def test_the_wheel_runs_the_demo_and_its_end_leaves_nothing(environment: Path) -> None:
    directory = Path(tempfile.mkdtemp(prefix="mbd-", dir="/tmp"))
    directory.chmod(0o755)
    try:
        multibot = [str(environment / "bin" / "multibot"), "--home", str(directory / "home")]
        for _ in range(2):  # a second demo ends the first
            done = subprocess.run([*multibot, "demo"], capture_output=True, text=True, timeout=170, cwd=directory)
            assert done.returncode == 0, done.stdout + done.stderr
        for part in ("Hello Ada!", "is anybody there?", "kill -9 of echo", "deaf", "well again", "LAST POLL"):
            assert part in done.stdout, done.stdout
        said = subprocess.run([*multibot, "sandbox", "say", "greeter", "hi"], capture_output=True, text=True)
        assert said.returncode == 0, said.stderr
        subprocess.run([*multibot, "demo", "--stop"], check=True, capture_output=True, timeout=60)
        wait_for(lambda: not of_directory(directory), "no process after the demo's end")
    finally:
        leave_nothing(directory)


PLUGIN = """
from multibot_plugin.hookspecs import Finding, Level, hookimpl

sent = None

@hookimpl
def multibot_configure(info):
    global sent
    sent = info.own["file"]

@hookimpl
def multibot_check(observation):
    if observation.state == "running":
        return [Finding(observation.bot, "stranger.seen", Level.WARNING, "seen by a stranger")]

@hookimpl
def multibot_send_alert(alert):
    with open(sent, "a") as file:
        file.write(alert.text + "\\n")
    return True
"""


HANGS = """
import threading
from multibot_plugin.hookspecs import hookimpl

@hookimpl
def multibot_check(observation):
    threading.Event().wait()
"""

RAISES = """
from multibot_plugin.hookspecs import hookimpl

@hookimpl
def multibot_check(observation):
    raise RuntimeError("no good")
"""


def test_a_strangers_plugins_act_on_a_real_bot_and_broken_ones_silence_no_other(
    environment: Path, tmp_path: Path
) -> None:
    source = tmp_path / "stranger"
    (source / "stranger").mkdir(parents=True)
    for name, text in (("__init__", PLUGIN), ("hangs", HANGS), ("raises", RAISES)):
        (source / "stranger" / f"{name}.py").write_text(text)
    (source / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n'
        '[project]\nname = "multibot-stranger"\nversion = "1"\n'
        '[project.entry-points."multibot.hooks"]\nstranger = "stranger"\n'
        'hangs = "stranger.hangs"\nraises = "stranger.raises"\n'
        '[tool.setuptools]\npackages = ["stranger"]\n'
    )
    build_wheel(source, tmp_path)
    pip(environment, "--no-deps", str(next(tmp_path.glob("multibot_stranger-*.whl"))))
    cli = (str(environment / "bin" / "python"), "-P", "-m", "multibot_plugin.cli")
    try:
        with System.create(cli, start=False, monitor__plugin_timeout_s="0.5s") as system:
            told = system.directory / "told"
            with system.home.toml.open("a") as file:
                file.write(f'\n[plugins.stranger]\nfile = "{told}"\n')
            system.run("start")
            system.create_form("echo", "command")
            assert "echo" in wait_for(lambda: told.exists() and told.read_text(), "the stranger's channel")
            system.wait_alert("echo", "seen by a stranger")
            system.wait_alert("hangs", "disabled")
            system.wait_alert("raises", "disabled", "no good")
            # The others go on.
            os.kill(system.pid("echo"), signal.SIGKILL)
            wait_for(lambda: system.row("echo")["restarts_24h"] == 1, "a tick of the others")
            plugins = {p["name"]: p["disabled"] for p in system.status()["plugins"]}
            assert plugins.pop("hangs")
            assert plugins.pop("raises")
            assert not any(plugins.values()), plugins
    finally:
        subprocess.run([cli[0], "-m", "pip", "uninstall", "--quiet", "--yes", "multibot-stranger"], check=True)


def test_without_any_plugin_the_monitor_runs_and_finds_nothing(environment: Path) -> None:
    points = next(environment.glob("lib/python*/site-packages/supervisor_multibot-*.dist-info/entry_points.txt"))
    before = points.read_text()
    points.write_text(before.partition("[multibot.hooks]")[0])
    cli = (str(environment / "bin" / "python"), "-P", "-m", "multibot_plugin.cli")
    try:
        with System.create(cli) as system:
            system.create_form("echo", "command")
            system.wait_polling("echo")
            assert wait_for(lambda: system.row("echo")["health"] == "healthy", "a tick")
            assert system.alerts() == []
    finally:
        points.write_text(before)
