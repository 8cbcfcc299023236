"""``multibot start`` and ``stop`` for real: from nothing, twice, after kill -9, in the foreground, with troubles."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from cli_home import Installation, installation
from system import alive, wait_for

from multibot_plugin.bots.store import read_audit
from multibot_plugin.database import pool
from multibot_plugin.settings import load
from multibot_plugin.supervisor.client import Supervisor

ROOT = os.geteuid() == 0


@pytest.fixture(params=[None, pytest.param("nobody", marks=pytest.mark.root)], ids=["ourselves", "nobody"])
def made(request: pytest.FixtureRequest) -> Iterator[Installation]:
    with installation(request.param) as made:
        made.run("init", "--yes")
        yield made


@pytest.fixture
def started(made: Installation) -> Installation:
    made.run("start")
    return made


def test_start_stop_and_the_same_again(made: Installation) -> None:
    first = made.run("start")
    assert first.stdout == ""
    assert "tables: " in first.stderr
    pid = made.pid()
    again = made.run("start")
    assert f"supervisord runs already (pid {pid})" in again.stderr
    assert made.pid() == pid
    done = made.run("stop", "--yes")
    assert not alive(pid)
    assert not made.home.socket.exists()
    assert f"start it again: {made.home.command('start')}" in done.stderr
    assert "nothing to stop" in made.run("stop").stderr
    made.run("start")
    assert "tables: " not in made.run("start").stderr


def test_after_a_reboot_the_runtime_directory_is_made_again(made: Installation) -> None:
    shutil.rmtree(made.home.run)
    made.run("start")
    assert stat.S_IMODE(made.home.run.stat().st_mode) == 0o711
    assert (made.home.run / "bots").is_dir()


def test_stop_wants_a_confirmation(started: Installation) -> None:
    refused = started.run("stop", code=6)
    assert refused.stderr == "multibot: not confirmed: this is no terminal, so add --yes\n"
    assert started.alive()


def test_stop_is_in_the_audit_log_once() -> None:
    async def recorded() -> list[str]:
        connection = await pool.connect(made.home, load(made.home.toml, environ={}))
        try:
            return [row["door"] for row in await read_audit(connection) if row["action"] == "stop"]
        finally:
            await connection.close()

    with installation() as made:
        made.run("init")
        made.run("start")
        made.run("stop", "--yes")
        made.run("start")
        wait_for(lambda: asyncio.run(recorded()), "the entry in the database")
        made.run("stop", "--yes")
        made.run("start")
        wait_for(lambda: len(asyncio.run(recorded())) == 2, "both entries")
        assert asyncio.run(recorded()) == ["multibot stop"] * 2


def test_a_killed_supervisord_is_started_again_over_its_remains(started: Installation) -> None:
    pid = started.pid()
    children = psutil.Process(pid).children(recursive=True)
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not alive(pid), "supervisord gone")
    assert started.home.socket.exists()
    assert started.home.pidfile.exists()
    assert "nothing to stop" in started.run("stop").stderr
    started.run("start")
    assert started.pid() != pid
    wait_for(lambda: not any(alive(child.pid) for child in children), "the old children gone")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_stop_that_is_cut_off_goes_on_by_itself(started: Installation, number: signal.Signals) -> None:
    pid = started.pid()
    slow = started.home.config / "conf.d" / "slow.conf"
    slow.write_text("[program:slow]\ncommand=/bin/sh -c \"trap 'sleep 2; exit' TERM; while :; do sleep 0.1; done\"\n")
    supervisorctl(started, "update", "slow")
    stop = started.popen("stop", "--yes")
    with Supervisor.of(started.home) as supervisor:
        wait_for(lambda: supervisor.state() == "SHUTDOWN", "the request to shut down")
    stop.send_signal(number)
    stop.communicate(timeout=60)
    wait_for(lambda: not alive(pid), "supervisord gone")
    started.run("start")
    wait_for(lambda: healthy(started), "everything up")


def healthy(made: Installation) -> bool:
    with Supervisor.of(made.home) as supervisor:
        answer = supervisor.bots()
        return bool(answer["monitor"]["ok"] and answer["monitor"]["database"]["ok"])


def supervisorctl(made: Installation, *words: str) -> None:
    tool = Path(sys.executable).parent / "supervisorctl"
    subprocess.run([str(tool), "-c", str(made.home.supervisord_conf), *words], check=True, capture_output=True)


@pytest.mark.parametrize("programs", [["multibot-postgres"], ["multibot"], ["all"]])
def test_start_brings_back_what_somebody_stopped(started: Installation, programs: list[str]) -> None:
    supervisorctl(started, "stop", *programs)
    pid = started.pid()
    done = started.run("start")
    names = ["multibot-postgres", "multibot"] if programs == ["all"] else programs
    assert [line for line in done.stderr.splitlines() if "was stopped" in line] == [
        f"{name} was stopped: started again" for name in names
    ]
    assert started.pid() == pid
    wait_for(lambda: healthy(started), "monitor and database up")


def test_everything_runs_with_a_closed_umask_and_a_small_environment(made: Installation) -> None:
    made.run("start", MY_SECRET="hunter2", HTTPS_PROXY="http://proxy.example:3128", MULTIBOT_DEATHS_LIMIT="7")
    process = psutil.Process(made.pid())
    environment = process.environ()
    assert "MY_SECRET" not in environment
    assert environment["HTTPS_PROXY"] == "http://proxy.example:3128"
    assert environment["MULTIBOT_DEATHS_LIMIT"] == "7"
    assert "Umask:\t0077" in Path(f"/proc/{process.pid}/status").read_text()
    assert process.cwd() == "/"


def test_in_the_foreground_it_keeps_its_pid_and_ends_by_sigterm(made: Installation) -> None:
    process = made.popen("start", "--foreground")
    try:
        wait_for(made.alive, "supervisord answers")
        assert made.pid() == process.pid
        assert "Umask:\t0077" in Path(f"/proc/{process.pid}/status").read_text()
        wait_for(lambda: len(psutil.Process(process.pid).children()) >= 1, "children")
        wait_for(lambda: "bots" in made.run("status", "--json", code=3).stdout, "the database migrated")
        assert "runs already" in made.run("start", "--foreground", code=6).stderr
    finally:
        process.terminate()
        _, said = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "Traceback" not in said


def test_for_systemd_only_a_crash_is_a_failure(made: Installation) -> None:
    for kill, code in ((False, 0), (True, -signal.SIGKILL)):
        process = made.popen("start", "--foreground")
        wait_for(made.alive, "supervisord answers")
        wait_for(lambda: healthy(made), "everything up")
        family = psutil.Process(process.pid).children(recursive=True)
        if kill:
            process.kill()
        else:
            made.run("stop", "--yes")
        process.communicate(timeout=60)
        assert process.returncode == code
        wait_for(lambda born=family: not any(alive(child.pid) for child in born), "its children gone")


def test_before_init_there_is_one_line() -> None:
    with installation() as made:
        for command in ("start", "stop"):
            done = made.run(command, code=5)
            assert done.stderr == (
                f"multibot: no installation in {made.home.config}: run '{made.home.command('init')}'\n"
            )


def test_a_supervisord_that_does_not_stay_gives_its_reason() -> None:
    with installation() as made:
        made.run("init")
        (made.home.config / "conf.d" / "mine.conf").write_text("[program:x]\ncommand=/bin/true\nstartsecs=soon\n")
        done = made.run("start", code=1)
        last = done.stderr.splitlines()[-1]
        assert last.startswith("multibot: supervisord did not start: ")
        assert "program:x" in last
        assert not made.alive()


def test_a_database_that_stays_away_is_told_and_the_rest_runs() -> None:
    with installation() as made:
        made.run("init")
        made.run("config", "set", "database_url", f"postgresql://x@/x?host={made.directory}")
        code = "from multibot_plugin.cli import start, main; start.DATABASE_WAIT_S = 0.5; main()"
        words = [sys.executable, "-P", "-c", code, "--home", str(made.home.config), "start"]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert done.returncode == 5, done.stderr
        assert "the bots run as they were rendered last" in done.stderr.splitlines()[-1]
        assert made.alive()


def test_a_password_in_the_environment_is_refused() -> None:
    with installation() as made:
        made.run("init")
        done = made.run("start", code=6, MULTIBOT_DATABASE_URL="postgresql://a:s3cr3t@db.example/x")
        assert "s3cr3t" not in done.stderr
        assert "every bot could read" in done.stderr
