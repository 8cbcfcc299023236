"""``init --into`` and doctor against an operator's supervisord that cannot serve; real ones, without a database."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from system import System, wait_for

from multibot_plugin.cli import main
from multibot_plugin.cli.beside import take_postgres
from multibot_plugin.cli.output import Context
from multibot_plugin.home import Home, find_home, into
from multibot_plugin.supervisor.beside import other_user, parts, to_paste
from multibot_plugin.supervisor.client import POSTGRES, Supervisor
from multibot_plugin.supervisor.conf import install_included
from multibot_plugin.supervisor.faults import SupervisorFault

THEIRS = """\
[unix_http_server]
file=%(here)s/s.sock
username=ops
password=right

[supervisord]
logfile=%(here)s/their.log
pidfile=%(here)s/s.pid

[supervisorctl]
username=ops
password=right

[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface

[program:theirs]
command=/bin/sleep 3600

"""
BIN = Path(sys.executable).parent
# The real one, which believes to be another version: 4.2.5 needs a setuptools that newer Pythons do not have.
AGED = "import supervisor.options as o; o.VERSION = '4.2.5'; from supervisor.supervisord import main; main()"
NO_DATABASE = {"MULTIBOT_DATABASE_URL": "postgresql://db.example/x"}


@contextmanager
def running(home: Home, *program: str) -> Iterator[Supervisor]:
    words = [sys.executable, *program, "-n", "-c", str(home.supervisord_conf)]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    try:
        with Supervisor.of(home) as client:
            wait_for(client.alive, "their supervisord")
            yield client
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home whose sections all stand in the file of an operator."""
    tmp_path.chmod(0o755)
    (tmp_path / "their.conf").write_text(THEIRS)
    made = into(find_home(str(tmp_path / "h")), tmp_path / "their.conf")
    install_included(made)
    with made.supervisord_conf.open("a") as file:
        file.write(to_paste(parts(made)).replace("autostart=true", "autostart=false"))
    return find_home(str(tmp_path / "h"))


def invoke(home: Home, *words: str) -> Result:
    """Run the command line in this process."""
    return CliRunner().invoke(main, ["--home", str(home.config), *words], obj=Context(), env=NO_DATABASE)


def refused(home: Home, *words: str, code: int = 6) -> str:
    """Run a command that has to fail with one line, and return that."""
    done = invoke(home, *words)
    assert done.exit_code == code, done.output
    (line,) = [line for line in done.stderr.splitlines() if not line.startswith("warning: ")]
    return line


def test_a_supervisord_of_an_older_version_keeps_its_programs_and_is_refused_in_one_line(home: Home) -> None:
    invoke(home, "init", "--yes")
    with running(home, "-c", AGED) as client:
        wait_for(lambda: client.info("theirs")["statename"] == "RUNNING", "their program")
        reason = "supervisor 4.2.5 is too old, multibot needs 4.3.0"
        assert f"CRIT multibot is not loaded: {reason}" in (home.config.parent / "their.log").read_text()
        into = "init", "--into", str(home.foreign)
        for words, code in ((("list",), 5), (("status",), 5), (("start",), 6), (into, 6)):
            assert reason in refused(home, *words, code=code), words
        found = invoke(home, "doctor")
        assert found.exit_code == 1
        line, *cures = found.stdout[found.stdout.index("✖ supervisor") :].splitlines()[:3]
        assert line == f"✖ {reason}"
        assert f"/supervisord -c {home.foreign}  (in" in cures[0]
        assert cures[1].endswith("/python -m pip install supervisor==4.3.0")


def test_a_supervisord_without_our_plugin_is_told_from_one_that_is_away(home: Home) -> None:
    whole = home.supervisord_conf.read_text()
    home.supervisord_conf.write_text(THEIRS)
    said = invoke(home, "init", "--yes")
    assert said.stdout.startswith("\n[include]\n")
    assert f"Then: {BIN}/supervisord -c {home.foreign}  (or its service, if its interpreter can import" in said.stderr
    assert "reload" not in said.stderr
    assert "does not answer at" in refused(home, "start", code=5)
    with running(home, "-m", "supervisor.supervisord"):
        start = refused(home, "start")
        assert "[include] does not include" in start
        assert "init' shows what belongs there" in start
        home.supervisord_conf.write_text(whole)
        for command in ("start", "status"):
            assert f"plugin (or an older one): '{home.command('doctor')}' says why" in refused(home, command, code=5)
        home.supervisord_conf.write_text(whole.replace("buffer_size=4096", "buffer_size=lots"))
        for said in (invoke(home, "doctor").output, invoke(home, "init", "--yes").output):
            assert "buffer_size=lots is not a number" in said
            assert "reload" not in said
        home.supervisord_conf.write_text(whole)
        found = invoke(home, "doctor").stdout
        assert "runs without multibot's plugin: it has not read its file since" in found
        assert "[eventlistener:multibot] has to say autostart=true" in found
        assert "yours to start" in refused(home, "start", "--foreground")
        home.supervisord_conf.write_text(whole.replace("password=right\n\n[rpc", "password=wrong\n\n[rpc"))
        assert "wants another user and password" in refused(home, "start", code=5)


def test_the_database_runs_as_its_section_says_which_may_come_and_go(home: Home) -> None:
    home.supervisord_conf.write_text(f"{THEIRS}[include]\nfiles={home.rendered.parent}/*.conf\n")
    section = "[program:multibot-postgres]\ncommand=/bin/sleep {}\n"
    with running(home, "-m", "supervisor.supervisord") as client:
        pids = []
        for seconds in (3600, 3601, 3601):
            home.rendered_postgres.write_text(section.format(seconds))
            take_postgres(client)
            pids.append(wait_for(lambda: client.running(POSTGRES), "the program"))
        assert pids[0] != pids[1] == pids[2]
        home.rendered_postgres.unlink()
        take_postgres(client)
        with pytest.raises(SupervisorFault, match="knows no multibot-postgres"):
            client.info(POSTGRES)


def test_a_file_that_cannot_serve_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    file = tmp_path / "their.conf"
    file.write_text("[supervisord]\n[inet_http_server]\nport=127.0.0.1:9001\n")
    home = find_home(str(tmp_path / "h"))
    assert "only [inet_http_server]" in refused(home, "init", "--yes", "--into", str(file), code=2)
    file.write_text(f"{THEIRS}[rpcinterface:multibot]\nstate=/srv/other/state\n")
    assert "with its state in /srv/other/state lives there" in refused(home, "init", "--yes", "--into", str(file))
    own = home.supervisord_conf
    assert not own.parent.exists()
    own.parent.mkdir()
    own.write_text(THEIRS)
    assert "this installation's own" in refused(home, "init", "--yes", "--into", str(own), code=2)


def test_an_installation_moves_only_when_nothing_of_it_runs(system: System, tmp_path: Path) -> None:
    (tmp_path / "their.conf").write_text(THEIRS)
    done = system.run("init", "--yes", "--into", str(tmp_path / "their.conf"), code=6)
    assert f"multibot runs in the supervisord of {system.home.supervisord_conf}" in done.stderr
    assert not (system.home.state / "supervisord").exists()


@pytest.mark.root
def test_a_supervisord_of_another_user_is_refused(home: Home) -> None:
    class Other(Supervisor):
        def pid(self) -> int:
            return process.pid

    with subprocess.Popen(["/bin/sleep", "3600"], user="nobody", env={}) as process:
        try:
            wait_for(lambda: os.stat(f"/proc/{process.pid}").st_uid != 0, "the other user's process")
            assert "runs as nobody, the installation belongs to root" in other_user(Other(Path("/none")))
        finally:
            process.kill()
