"""A bot in an interpreter that it brought: the runner, nothing else of ours, and nothing of the bot's hidden by us."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from runners import ROOT, Place, a_place, wait_for

from multibot_runner.protocol import STOPPED

RUNNER = Path(__file__).parents[2] / "runner"


def interpreters() -> list[str]:
    """Return every Python of this machine that a bot can have, each once: 3.10 or later, reachable for every user."""
    found: dict[str, str] = {}
    for folder in [os.path.dirname(os.path.realpath(sys.executable)), *os.environ["PATH"].split(os.pathsep)]:
        with contextlib.suppress(OSError):  # a folder of somebody else's PATH
            for file in sorted(os.listdir(folder)):
                name = re.fullmatch(r"python3\.(\d+)", file)
                real = _real(f"{folder}/{file}") if name and int(name[1]) >= 10 else ""
                if real:
                    found.setdefault(real, f"{folder}/{file}")
    return sorted(found.values())


def _real(python: str) -> str:
    """Return the path of an interpreter without links and environments; empty where it does not work."""
    rights: dict[str, int] = {"user": 65534, "group": 65534} if ROOT else {}
    try:
        done = subprocess.run(
            [python, "-c", "import os, sys, venv; print(os.path.realpath(sys.executable))"],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, timeout=60, check=False, cwd="/", **rights,
        )  # type: ignore[call-overload]  # fmt: skip
    except OSError:
        return ""
    return str(done.stdout.strip()) if done.returncode == 0 else ""


@pytest.fixture(scope="module", params=interpreters())
def every_python(request: pytest.FixtureRequest) -> Iterator[str]:
    """An environment with nothing installed, of each interpreter, where every user can reach it."""
    with a_place() as place:
        subprocess.run([request.param, "-m", "venv", "--without-pip", str(place.top / "venv")], check=True, timeout=120)
        yield str(place.top / "venv" / "bin" / "python")


def test_nothing_of_ours_hides_what_lies_beside_the_bot(place: Place, every_python: str) -> None:
    """Also under the names of our own modules, whatever the interpreter, and with a class from the bot's __main__."""
    own = {path.stem for path in RUNNER.glob("*.py")} - {"__init__", "__main__"}
    names = sorted(own | {"hooks", "runner", "templates", "settings", "demo", "multibot_plugin", "multibot_hooks"})
    script = place.file("bot.py", f"""
        import json, multiprocessing, os, sys
        names = {names!r}
        found = {{name: __import__(name).__file__ for name in names}}
        def answer():
            return 42
        if __name__ == "__main__":
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                assert pool.apply(answer) == 42
            print(json.dumps([sys.prefix, sys.version_info[:2] >= (3, 10), sys.argv[1:], found]), flush=True)
            sys.exit(3)
    """)  # fmt: skip
    for name in names:
        (script.parent / f"{name}.py").write_text("")
    bot = place.bot("script", f"{script} --flag 'a b'", python=every_python)
    assert bot.run_to_end() == 3, bot.log
    prefix, recent, arguments, found = json.loads(bot.log.splitlines()[0])
    assert (prefix, recent, arguments) == (str(Path(every_python).parents[1]), True, ["--flag", "a b"])
    assert found == {name: str(script.parent / f"{name}.py") for name in names}


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An interpreter with nothing installed, where every user can reach it."""
    with a_place() as place:
        base = os.path.realpath(sys.executable)
        subprocess.run([base, "-m", "venv", "--without-pip", str(place.top / "venv")], check=True, timeout=120)
        yield str(place.top / "venv" / "bin" / "python")


def test_a_bots_own_interpreter_sees_the_runner_and_nothing_else_of_ours(place: Place, bare_python: str) -> None:
    bot = place.script("""
        import os, sys
        print(sys.prefix, sys.path[0], sys.argv, "BOT_TOKEN" in os.environ, os.environ["BOT_TOKEN"])
        for name in ("multibot_runner.protocol", "telegram", "httpx", "multibot_plugin", "protocol"):
            try:
                __import__(name)
                print("sees", name)
            except ModuleNotFoundError:
                pass
        with open("/proc/self/environ", "rb") as file:
            print("clean", b"AA" not in file.read())
        raise RuntimeError(os.environ["BOT_TOKEN"])
    """, python=bare_python)  # fmt: skip
    assert bot.run_to_end() == 1
    lines = bot.log.splitlines()
    file = place.top / "bots" / "0" / "bot.py"
    number = bot.token.partition(":")[0]
    venv = str(Path(bare_python).parents[1])
    assert lines[0] == f"{venv} {file.parent} ['{file}'] True {number}:<redacted>"
    assert lines[1] == "sees multibot_runner.protocol"
    assert lines[2].startswith("clean") or "PermissionError" in bot.log
    assert bot.exit.text.startswith(("RuntimeError", "PermissionError"))
    assert bot.token not in bot.log


def test_a_bots_own_interpreter_keeps_the_lock_the_pid_and_the_way_it_is_stopped(
    place: Place, bare_python: str
) -> None:
    bot = place.script("import time; print('up', flush=True); time.sleep(600)", python=bare_python)
    process = bot.start()
    bot.said("up")
    assert Path(f"/proc/{process.pid}/cmdline").read_bytes().startswith(bare_python.encode())
    assert (bot.heartbeat.pid, bot.runs[0].pid) == (process.pid, process.pid)  # type: ignore[union-attr]
    second = bot.start()
    bot.said(f"process {process.pid} already runs this bot")
    second.terminate()
    second.wait(10)
    process.terminate()
    assert process.wait(10) == -signal.SIGTERM
    assert (bot.exit.cause, bot.runs[0].stopping) == (STOPPED, True)


def test_a_bot_in_its_own_interpreter_ends_when_its_parent_is_killed(place: Place, bare_python: str) -> None:
    bot = place.script("import time; print('up', flush=True); time.sleep(600)", python=bare_python)
    shell = bot.start(through=("/bin/sh", "-c", '"$@" & wait', "sh"))
    bot.said("up")
    shell.kill()
    shell.wait()
    wait_for(lambda: not place.processes(), "nothing left of the bot")
    assert bot.exit.cause == STOPPED


def test_a_build_bot_whose_interpreter_lacks_the_library_is_told_so(place: Place, bare_python: str) -> None:
    bot = place.bot("build", f"{place.file('a_bot.py', 'def build(builder): pass')}:build", python=bare_python)
    assert bot.run_to_end() == 78
    assert "has no python-telegram-bot" in bot.exit.text
    place.bot(
        "build", "a_bot:build", bot=bot, python=bare_python, receives="webhook", port=1, webhook_url="https://x/y"
    )
    assert bot.run_to_end() == 78
    assert bot.exit.text == f'webhooks need tornado: {bare_python} -m pip install "python-telegram-bot[webhooks]"'


def test_the_folder_works_when_copied_alone_into_a_foreign_interpreter(place: Place, bare_python: str) -> None:
    alone = place.top / "alone" / "multibot_runner"
    shutil.copytree(RUNNER, alone, ignore=shutil.ignore_patterns("__pycache__"))
    bot = place.script("print('hello from', __import__('sys').prefix)")
    for words in ([bare_python, str(alone)], [bare_python, "-P", "-m", "multibot_runner"]):
        done = subprocess.run(
            [*words, bot.id, bot.digest], env={**place.environment, "PYTHONPATH": str(alone.parent)},
            capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip
        assert done.stdout == f"hello from {Path(bare_python).parents[1]}\n", done.stderr
