"""``list``, ``status``, ``doctor``, ``logs`` and ``stop`` on a running installation with bots in it."""

from __future__ import annotations

import json
import os
import re
import select
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from cli_home import Installation, installation
from system import alive, new_token, wait_for

from multibot_plugin.supervisor.client import Supervisor

# A bot that tells when it is told to end and when it has ended, and takes a moment between.
SLOW = """#!/bin/sh
trap 'echo told >>"$1"; sleep 1; echo ended >>"$1"; exit 0' TERM
echo "hello from $(basename "$1") with {token}"
while :; do sleep 0.05; done
"""
DEAF = "#!/bin/sh\ntrap '' TERM\nwhile :; do sleep 0.05; done\n"
LEAKED = "123456789:" + "AbC-_" * 7


@pytest.fixture(scope="module")
def made() -> Iterator[Installation]:
    with installation() as made:
        made.run("init", "--yes")
        made.run("config", "set", "monitor.tick_s", "0.5s")
        made.run("start")
        for name, text in (("slow", SLOW.replace("{token}", LEAKED)), ("deaf", DEAF)):
            script = made.directory / name
            script.write_text(text)
            script.chmod(0o755)
        (made.directory / "said").mkdir(mode=0o777)
        (made.directory / "said").chmod(0o777)
        for number in range(3):
            create(made, f"slow-{number}", f"{made.directory}/slow {made.directory}/said/{number}")
        yield made


def create(made: Installation, bot: str, command: str, *more: str) -> None:
    made.run("bot", "create", bot, "--command", command, "--token-env", "T", "--no-check", *more, T=new_token())


def rows(made: Installation) -> dict[str, dict[str, Any]]:
    return {row["id"]: row for row in json.loads(made.run("list", "--json").stdout)["bots"]}


def wait_healthy(made: Installation) -> None:
    wait_for(lambda: all(row["health"] == "healthy" for row in rows(made).values()), "all healthy")


def test_list_shows_the_bots_with_their_health(made: Installation) -> None:
    wait_healthy(made)
    found = rows(made)
    assert list(found) == ["slow-0", "slow-1", "slow-2"]
    assert all(alive(row["pid"]) and row["memory_bytes"] > 0 for row in found.values())
    assert "● healthy (no view)" in made.run("list").stdout


def test_status_is_well_and_says_where_alerts_go(made: Installation) -> None:
    done = made.run("status")
    first, second = done.stdout.splitlines()
    assert f"supervisord 4.3.0 pid {made.pid()}" in first
    assert "database ok (embedded, PostgreSQL 18" in first
    assert second.startswith("3 bots: 3 healthy · 0 alerts · monitor ok, last tick")
    assert second.endswith("alerts go to the log only")


def test_a_stopped_bot_makes_exit_code_3_with_who_stopped_it(made: Installation) -> None:
    made.run("bot", "stop", "slow-0")
    done = made.run("status", code=3)
    assert f" by {psutil.Process().username()} (multibot bot stop)" in done.stdout
    assert made.run("status", "-o", "name", code=3).stdout == "slow-0\n"
    made.run("status", "slow-1")
    made.run("bot", "start", "slow-0")
    wait_healthy(made)
    made.run("status")


def test_doctor_finds_only_that_nobody_hears_an_alert(made: Installation) -> None:
    lines = made.run("doctor").stdout.splitlines()
    assert not [line for line in lines if line.startswith("✖")]
    assert "▲ alerts: no channel configured, alerts go to the log only" in lines
    answer = json.loads(made.run("doctor", "--json").stdout)
    expected = {"alerts": "warning"} | ({} if os.geteuid() == 0 else {"isolation": "warning"})
    assert {c["check"]: c["level"] for c in answer["checks"] if c["level"] != "ok"} == expected


def test_doctor_sees_what_is_wrong(made: Installation) -> None:
    made.home.log.chmod(0o755)
    (made.home.config / "multibot.toml").write_text((made.home.toml.read_text()) + "\n")
    conf = made.home.supervisord_conf
    text = conf.read_text()
    conf.write_text(text + "; by hand\n")
    monitor = next(
        p for p in psutil.Process(made.pid()).children() if "multibot_plugin.supervisor.listener" in p.cmdline()
    )
    monitor.send_signal(signal.SIGSTOP)
    try:
        wait_for(lambda: "monitor has been silent" in made.run("doctor", code=1).stdout, "the monitor found silent")
        shown = made.run("doctor", code=1).stdout
    finally:
        monitor.send_signal(signal.SIGCONT)
        conf.write_text(text)
        made.home.log.chmod(0o700)
    assert f"✖ {made.home.log} is open to others\n    chmod go-rwx {made.home.log}\n" in shown
    assert f"▲ {conf} differs from what this multibot writes" in shown


def test_without_the_monitor_no_bot_is_called_healthy(made: Installation) -> None:
    wait_healthy(made)
    with Supervisor.of(made.home) as supervisor:
        supervisor.stop("multibot", 30.0)
        seen = rows(made).values()
        supervisor.start("multibot")
    assert {(row["health"], row["cause"]) for row in seen} == {("unknown", "the monitor does not run")}
    wait_healthy(made)


def test_logs_are_merged_and_redacted(made: Installation) -> None:
    shown = made.run("logs", "slow-*").stdout
    for bot in range(3):
        line = rf"^slow-{bot} │ \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{{3}} hello from {bot} with 123456789:<redacted>$"
        assert re.search(line, shown, re.MULTILINE)
    assert LEAKED.partition(":")[2] not in shown


def test_logs_are_followed_until_ctrl_c(made: Installation) -> None:
    process = made.popen("logs", "slow-1", "-n", "0", "-f")
    assert process.stdout is not None
    descriptor = process.stdout.fileno()

    def comes_through() -> bool:
        with made.home.bot_log("slow-1").open("a") as log:
            log.write("appended\n")
        return bool(select.select([descriptor], [], [], 0)[0])

    wait_for(comes_through, "an appended line")
    assert os.read(descriptor, 9) == b"appended\n"
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert said.strip() == ""


def test_stop_ends_all_bots_at_the_same_time_and_changes_nobodys_wish(made: Installation) -> None:
    for file in (made.directory / "said").iterdir():
        file.unlink()
    pids = [row["pid"] for row in rows(made).values()]
    made.run("stop", "--yes")
    assert not any(map(alive, pids))
    told = sorted((p.stat().st_ctime, p.read_text()) for p in (made.directory / "said").iterdir())
    assert [text for _, text in told] == ["told\nended\n"] * 3
    away = made.run("list", "--json", code=5)
    assert [row["state"] for row in json.loads(away.stdout)["bots"]] == ["stopped"] * 3
    made.run("start")
    wait_for(lambda: all(row["state"] == "running" for row in rows(made).values()), "all running again")
    assert all(row["enabled"] for row in rows(made).values())


def test_without_the_database_status_goes_on_and_says_so(made: Installation) -> None:
    wait_healthy(made)
    server = next(p for p in psutil.Process(made.pid()).children() if p.name() == "postgres")
    for process in (server, *server.children()):
        process.send_signal(signal.SIGSTOP)
    try:
        done = made.run("status", code=3)
        assert "3 bots: 3 healthy" in done.stdout
        assert "✖ " in done.stdout
        assert "bots go on without it" in done.stdout
        assert list(rows(made)) == ["slow-0", "slow-1", "slow-2"]
    finally:
        for process in (server, *server.children()):
            process.send_signal(signal.SIGCONT)


def test_stop_now_kills_what_does_not_listen(made: Installation) -> None:
    create(made, "deaf", f"{made.directory}/deaf", "--stop-wait-s", "300s")
    pids = [row["pid"] for row in rows(made).values()]
    family = [p.pid for pid in pids for p in psutil.Process(pid).children(recursive=True)]
    made.run("stop", "--now", "--yes")
    assert not any(map(alive, pids))
    wait_for(lambda: not any(map(alive, family)), "the bots' own children gone")


def test_a_hint_can_be_typed_word_for_word(made: Installation) -> None:
    made.run("stop", "--now", "--yes")
    done = made.run("list", code=5)
    hint = done.stderr.rpartition("run '")[2].rpartition("'")[0].split()
    assert hint == ["multibot", "--home", str(made.directory / "h"), "start"]
    made.run(*hint[3:])
    assert Path(made.home.socket).exists()
