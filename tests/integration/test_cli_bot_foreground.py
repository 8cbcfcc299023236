"""`multibot bot run` and `bot exec` through the real command line."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from system import System, alive, wait_for

from multibot_runner.readers import read_runs

ROOT = os.geteuid() == 0
NO_DATABASE = {"MULTIBOT_DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none"}


@contextlib.contextmanager
def foreground(system: System, *words: str) -> Iterator[tuple[subprocess.Popen[bytes], Path, int]]:
    """Run a command of the command line in a terminal of its own; gives what appears there, and its keyboard."""
    terminal, inner = pty.openpty()
    shown = system.directory / "shown"
    process = subprocess.Popen(
        [*system.cli, "--home", str(system.home.config), *words], stdin=inner, stdout=inner, stderr=inner,
        env=system.environment | NO_DATABASE, start_new_session=True, preexec_fn=lambda: _own(0),
    )  # fmt: skip
    os.close(inner)
    with shown.open("wb") as file:
        copier = subprocess.Popen([sys.executable, "-c", COPY, str(terminal)], stdout=file, pass_fds=[terminal])
    try:
        yield process, shown, terminal
    finally:
        process.kill()
        process.wait()
        copier.kill()
        copier.wait()
        os.close(terminal)


COPY = """
import os, sys
while True:
    try:
        data = os.read(int(sys.argv[1]), 4096)
    except OSError:
        break
    os.write(1, data)
"""


def runner_of(process: subprocess.Popen[bytes]) -> int:
    """Return the pid of the bot: root's command stands between it and the terminal."""
    return psutil.Process(process.pid).children()[0].pid if ROOT else process.pid


def _own(descriptor: int) -> None:
    import fcntl
    import termios

    fcntl.ioctl(descriptor, termios.TIOCSCTTY, 0)


@pytest.mark.parametrize("form", ["build", "script", "command"])
def test_a_stopped_bot_runs_in_a_terminal_and_ctrl_c_ends_it(system: System, form: str) -> None:
    token = system.create_form("echo", form, "--no-start")
    before = read_runs(system.home.bot("echo"))
    with foreground(system, "bot", "run", "echo") as (process, shown, terminal):
        system.wait_polling("echo")
        system.answers("echo")
        pid = runner_of(process)
        assert token.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes()
        owner = Path(f"/proc/{pid}/status").read_text().split("Uid:\t")[1].split()[0]
        assert (owner != "0") is ROOT or not ROOT
        assert system.row("echo")["state"] == "stopped"
        refused = system.run("bot", "run", "echo", code=6).stderr
        assert f"echo runs already, as process {pid}: stop that one first" in refused
        os.write(terminal, b"\x03")
        assert process.wait(30) in (0, -signal.SIGINT, -signal.SIGTERM)
        assert token not in shown.read_text(errors="replace")
    wait_for(lambda: system.polls("echo") == 0, "no poll left")
    assert read_runs(system.home.bot("echo")) == before
    system.run("bot", "start", "echo")
    system.wait_polling("echo")
    assert system.sandbox.counters(token).conflicts == 0


def test_a_bot_that_supervisord_runs_is_refused_with_what_to_type(system: System) -> None:
    system.create_form("echo", "command")
    pid = system.pid("echo")
    refused = system.run("bot", "run", "echo", code=6).stderr
    command = system.home.command("bot stop echo")
    assert refused == f"multibot: bot 'echo' runs under supervisord (pid {pid}): run '{command}' first\n"
    assert system.run("bot", "run", "ecko", code=4).stderr == "multibot: no bot 'ecko' (did you mean 'echo'?)\n"
    assert "no bot 'ecko'" in system.run("bot", "exec", "ecko", "--", "true", code=4).stderr


def test_a_stop_of_the_supervised_bot_leaves_a_persons_alone(system: System) -> None:
    system.create_form("echo", "script", "--no-start")
    with foreground(system, "bot", "run", "echo") as (process, _, _):
        system.wait_polling("echo")
        (told,) = system.json("bot", "stop", "echo")["bots"]
        assert told["text"] == f"is stopped already; process {runner_of(process)} runs it in a terminal, left alone"
        system.supervisorctl("start", "bot-echo")
        system.sql("UPDATE bot_configs SET enabled = false")
        system.run("apply")
        assert process.poll() is None
        assert system.polls("echo") == 1
        system.run("bot", "delete", "echo", "--yes")
        process.wait(30)


@pytest.mark.root
def test_a_bot_in_a_terminal_keeps_its_user(system: System) -> None:
    system.create_form("echo", "script", "--no-start")
    with foreground(system, "bot", "run", "echo") as (process, _, _):
        system.wait_polling("echo")
        runs = f"process {runner_of(process)} runs it in a terminal as its user of before: end that first"
        refused = system.run("bot", "set", "echo", "--user", "daemon", code=6).stderr
        assert refused == f"multibot: bot 'echo': {runs}\n"
        assert system.sql("SELECT settings FROM bot_configs") == [{"settings": {}}]
        system.sql('UPDATE bot_configs SET settings = \'{"user": "daemon"}\', enabled = true')
        assert f"echo: left as it is: bot 'echo': {runs}" in system.run("apply", code=1).stderr
        assert system.row("echo")["state"] == "stopped"
        os.kill(runner_of(process), signal.SIGTERM)
        process.wait(30)
    system.run("apply")
    system.wait_polling("echo")
    assert psutil.Process(system.pid("echo")).username() == "daemon"


def test_a_bot_in_a_terminal_is_ended_when_it_is_deleted_while_supervisord_is_away(system: System) -> None:
    token = system.create_form("echo", "script", "--no-start")
    hidden = (system.home.socket, system.home.pidfile)
    with foreground(system, "bot", "run", "echo") as (process, _, _):
        system.wait_polling("echo")
        for path in hidden:
            path.rename(path.with_name(f"{path.name}.away"))
        try:
            system.run("bot", "delete", "echo", "--yes", "--purge")
        finally:
            for path in hidden:
                path.with_name(f"{path.name}.away").rename(path)
        process.wait(30)
    wait_for(lambda: system.sandbox.counters(token).polls_open == 0, "no poll left")
    system.run("apply")


def test_a_start_meanwhile_waits_for_the_one_in_the_terminal_and_takes_over(system: System) -> None:
    system.create_form("echo", "script", "--no-start")
    with foreground(system, "bot", "run", "echo") as (process, _, _):
        system.wait_polling("echo")
        system.supervisorctl("start", "bot-echo")
        wait_for(lambda: system.row("echo")["state"] == "starting", "the supervised one at the lock")
        assert alive(process.pid)
        process.send_signal(signal.SIGTERM)
        process.wait(30)
        wait_for(lambda: system.row("echo")["health"] == "healthy", "the supervised one polls")
    assert system.sandbox.counters(system.tokens["echo"]).conflicts == 0


def test_a_command_runs_as_the_bot_and_its_exit_code_is_passed_on(system: System) -> None:
    env_file = system.directory / "env"
    env_file.write_text("FROM_FILE=1\n")
    token = system.create_form("echo", "script", "--env", "GREETING=hi", "--env-file", str(env_file))
    pid = system.pid("echo")
    program = "import os, sys; print(os.getuid(), os.getcwd(), os.environ['GREETING'], os.environ['FROM_FILE'])"
    probe = f'command -v python; test "$BOT_TOKEN" = {token} || exit 3; python -c "{program}"; exit 9'
    done = system.run("bot", "exec", "echo", "--", "sh", "-c", probe, code=9, **NO_DATABASE)
    uid = system.sql("SELECT uid FROM bot_configs")[0]["uid"] if ROOT else os.geteuid()
    python, line = done.stdout.splitlines()
    assert python == str(Path(sys.executable).with_name("python"))
    assert line == f"{uid} {system.home.bot('echo').work} hi 1"
    assert system.pid("echo") == pid
    absent = system.run("bot", "exec", "echo", "no-such-command", "--flag", code=127).stderr
    assert absent == "multibot: no-such-command: command not found\n"
    system.run("bot", "exec", "echo", "--", "/etc/passwd", code=126)


@pytest.mark.root
def test_roots_terminal_and_variables_are_not_the_bots(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    system.create_form("echo", "script", "--no-start")
    monkeypatch.setitem(system.environment, "ROOTS_SECRET", "hidden")
    program = "import os; print(*os.get_terminal_size(), os.ttyname(0), os.getsid(0), 'ROOTS_SECRET' in os.environ)"
    words = ("sh", "-c", f'while read -r word; do python -c "{program}"; done; exit 9')
    with foreground(system, "bot", "exec", "echo", "--", *words) as (process, shown, terminal):
        for columns in (71, 72):  # when it begins, and when somebody draws the window larger
            fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("4H", 33, columns, 0, 0))
            os.write(terminal, b"go\n")
            said = wait_for(lambda: re.search(rf"{columns} 33 (\S+) (\d+) False", shown.read_text()), "its size")  # noqa: B023
            assert os.readlink(f"/proc/{process.pid}/fd/0") != said[1]
            assert os.getsid(process.pid) != int(said[2])
        os.write(terminal, b"\x04")
        assert process.wait(30) == 9


def test_a_command_of_a_person_is_no_leftover_of_the_bot(system: System) -> None:
    system.create_form("echo", "command")
    words = ("bot", "exec", "echo", "--", "sleep", "600")
    mine = subprocess.Popen([*system.cli, "--home", str(system.home.config), *words], env=system.environment)
    try:
        wait_for(lambda: Path(f"/proc/{mine.pid}/cmdline").read_bytes().endswith(b"sleep\x00600\x00"), "the command")
        wait_for(lambda: b"multibot" not in Path(f"/proc/{mine.pid}/cmdline").read_bytes(), "the command alone")
        system.run("bot", "restart", "echo")
        system.run("bot", "stop", "echo")
        assert mine.poll() is None
    finally:
        mine.kill()
        mine.wait()
