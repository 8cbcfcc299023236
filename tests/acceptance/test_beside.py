"""multibot in an operator's own supervisord: their programs, groups, plugins and listeners go on as before."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from system import System, wait_for

from multibot_plugin.home import find_home, into

BIN = Path(sys.executable).parent

# Programs of every kind, a plugin and a listener (superlance); {0} is a short directory.
THEIRS = """\
[unix_http_server]
file=%(here)s/their.sock

[supervisord]
logfile={0}/their.log
pidfile=%(here)s/their.pid
childlogdir={0}

[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface

[rpcinterface:theirs]
supervisor.rpcinterface_factory=their_plugin:make
word=hello

[supervisorctl]
serverurl=unix://{0}/their.sock

[program:web]
command=/bin/sleep 3600

[program:worker]
command=/bin/sleep 3600
process_name=%(program_name)s_%(process_num)d
numprocs=2

[program:victim]
command=/bin/sleep 3600

[group:pair]
programs=web,victim

[fcgi-program:app]
command=/bin/sleep 3600
socket=unix://{0}/app.sock

[eventlistener:crashmail]
command={1}/crashmail -a -m ops@example.com -s "/bin/cat >> {0}/mail"
events=PROCESS_STATE

[include]
files = {0}/theirs/*.ini
"""
PLUGIN = """\
class Theirs:
    def __init__(self, word):
        self._word = word

    def say(self):
        return self._word

def make(supervisord, word):
    return Theirs(word)
"""
NAMES = {"app", "crashmail", "extra", "pair:victim", "pair:web", "worker:worker_0", "worker:worker_1"}


@contextmanager
def their_supervisord(system: System) -> Iterator[Path]:
    """Run a supervisord of somebody else; gives its configuration file."""
    directory = system.directory
    (directory / "theirs").mkdir()
    (directory / "theirs" / "extra.ini").write_text("[program:extra]\ncommand=/bin/sleep 3600\n")
    (directory / "their_plugin.py").write_text(PLUGIN)
    file = directory / "their.conf"
    file.write_text(THEIRS.format(directory, BIN))
    words = [str(BIN / "supervisord"), "-n", "-c", str(file)]
    environment = {"PYTHONPATH": str(directory), "MULTIBOT_HOME": "somewhere/else"}  # little, and misleading
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, env=environment)
    try:
        yield file
    finally:
        process.terminate()
        process.wait(60)


class Beside:
    """The installation and what of the operator's has to stay as it is."""

    def __init__(self, system: System, file: Path) -> None:
        self.system, self.file = system, file

    def status(self) -> dict[str, Any]:
        with self.system.xmlrpc() as proxy:
            rows: Any = proxy.supervisor.getAllProcessInfo()
        names = {row["name"] if row["name"] == row["group"] else f"{row['group']}:{row['name']}": row for row in rows}
        return {name: row for name, row in names.items() if not name.startswith(("bot-", "multibot"))}

    def pids(self) -> dict[str, int]:
        return {name: row["pid"] for name, row in self.status().items()}

    def up(self) -> bool:
        try:
            states = {name: row["statename"] for name, row in self.status().items()}
        except OSError:
            return False
        return set(states) == NAMES and set(states.values()) == {"RUNNING"}


@pytest.fixture(scope="module")
def beside() -> Iterator[Beside]:
    with System.create(start=False) as system, their_supervisord(system) as file:
        made = Beside(system, file)
        try:
            text = file.read_text()
            system.home = into(system.home, file)
            wait_for(made.up, "their programs")
            pids = made.pids()
            init = system.run("init", "--yes", "--into", str(file))
            assert system.home == find_home(str(system.home.config))
            assert (file.read_text(), made.pids()) == (text, pids)
            assert system.supervisorctl("reread") == "No config updates to processes\n"
            file.write_text(text + init.stdout)
            system.supervisorctl("reload")
            wait_for(lambda: "multibot" in system.supervisorctl("status", code=None) and made.up(), "everything up")
            yield made
        finally:
            system.run("stop", "--now", "--yes", code=None)


def test_their_programs_notice_nothing_of_a_bots_life(beside: Beside) -> None:
    system, pids = beside.system, beside.pids()
    assert set(pids) == NAMES
    system.run("start")
    system.create_form("echo", "script")
    system.wait_polling("echo")
    system.answers("echo")
    assert system.supervisorctl("reread") == "No config updates to processes\n"
    system.run("bot", "set", "echo", "--stop-wait-s", "3s")
    system.wait_polling("echo")
    system.run("apply")
    system.run("bot", "stop", "echo")
    assert system.row("echo")["state"] == "stopped"
    system.run("bot", "start", "echo")
    wait_for(lambda: system.row("echo")["health"] == "healthy", "health told by the monitor")
    assert "echo" in system.supervisorctl("bots")
    system.run("status", "echo")
    system.run("logs", "echo")
    assert [line for line in system.run("doctor", code=None).stdout.splitlines()
            if line.startswith("✖") and "alerts" not in line] == []  # fmt: skip
    assert system.supervisorctl("reread") == "No config updates to processes\n"
    assert beside.pids() == pids
    with system.xmlrpc() as proxy:
        assert proxy.theirs.say() == "hello"
    system.run("bot", "delete", "echo", "--yes", "--purge")
    assert beside.pids() == pids


def test_stop_stops_what_is_ours_and_start_brings_it_back(beside: Beside) -> None:
    system, pids = beside.system, beside.pids()
    system.run("start")
    system.create_form("dice", "command")
    system.wait_polling("dice")
    done = system.run("stop", "--yes")
    assert "go on" in done.stderr
    assert {line.split()[1] for line in system.supervisorctl("status", code=None).splitlines()
            if line.startswith(("bot-", "multibot"))} == {"STOPPED"}  # fmt: skip
    assert system.run("list", code=None).returncode == 0
    assert beside.pids() == pids
    system.run("start")
    system.wait_polling("dice")
    assert system.row("dice")["enabled"]
    assert beside.pids() == pids


def test_their_listener_gets_its_events(beside: Beside) -> None:
    system, pids = beside.system, beside.pids()
    subprocess.run(["/bin/kill", "-9", str(pids["pair:victim"])], check=True)
    mail = system.directory / "mail"
    wait_for(lambda: mail.exists() and "victim" in mail.read_text(), "superlance's mail")
    wait_for(beside.up, "their victim started again")
    assert {name: pid for name, pid in beside.pids().items() if name != "pair:victim"} == {
        name: pid for name, pid in pids.items() if name != "pair:victim"
    }
