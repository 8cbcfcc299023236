"""`multibot bot start|stop|restart|delete` through the real command line, with a part of the installation away too."""

from __future__ import annotations

import os
import subprocess
import time

import pytest
from system import System, alive, command, registered, wait_for

from multibot_plugin.bots.render import read_rendered
from multibot_plugin.journal import Journal, Wish, new_id

ROOT = os.geteuid() == 0


def test_several_bots_are_stopped_and_started_by_pattern_and_the_wish_is_stored(system: System) -> None:
    for bot in ("shop-a", "shop-b", "other"):
        system.create_bot(bot, *command(system))
    pids = {bot: system.pid(bot) for bot in ("shop-a", "shop-b", "other")}
    done = system.run("bot", "stop", "shop-*")
    assert [line.split(" in ")[0] for line in done.stderr.splitlines()] == ["shop-a: stopped", "shop-b: stopped"]
    assert not alive(pids["shop-a"])
    assert system.pid("other") == pids["other"]
    enabled = {row["id"]: row["enabled"] for row in system.sql("SELECT id, enabled FROM bot_configs")}
    assert enabled == {"shop-a": False, "shop-b": False, "other": True}
    assert system.run("bot", "stop", "shop-a").stderr == "shop-a: is stopped already\n"
    system.run("render-config", "--diff")  # file and database say the same
    result = system.json("bot", "start", "--all")
    assert [(bot["id"], bot["ok"]) for bot in result["bots"]] == [("other", True), ("shop-a", True), ("shop-b", True)]
    system.wait_polling("shop-a", "shop-b", "other")
    assert system.pid("other") == pids["other"]


def test_a_restart_changes_no_wish_and_gives_a_new_process(system: System) -> None:
    system.create_bot("echo", *command(system))
    pid = system.pid("echo")
    version = system.sql("SELECT config_version FROM bot_configs")
    assert "echo: restarted in" in system.run("bot", "restart", "echo").stderr
    assert system.pid("echo") != pid
    assert system.sql("SELECT config_version FROM bot_configs") == version
    wait_for(lambda: system.audit("echo", action="bot.restarted", door="multibot bot restart"), "the audit entry")


def test_a_restart_of_a_stopped_bot_is_a_wish_where_it_is_named_and_leaves_it_else(system: System) -> None:
    for bot in ("a", "b"):
        system.create_bot(bot, *command(system), "--no-start")
    system.create_bot("c", *command(system))
    system.create_bot("d", "--command", "sleep 1.2", "--restart", "on-failure", "--no-check")
    wait_for(lambda: system.row("d")["state"] == "finished", "a job that is done")
    done = system.run("bot", "restart", "--all")
    assert [line.partition(" in ")[0] for line in done.stderr.splitlines()] == [
        "a: is stopped, left so", "b: is stopped, left so", "c: restarted",
        "d: has finished, left so",
    ]  # fmt: skip
    system.run("bot", "restart", "a")
    system.wait_polling("a", "c")
    assert wishes(system) == {"a": True, "b": False, "c": True, "d": True}
    assert system.row("b")["state"] == "stopped"
    wait_for(lambda: system.audit("a", action="bot.enabled", door="multibot bot restart"), "the audit entry")


@pytest.mark.parametrize("first", ["start", "stop"])
def test_of_two_commands_at_once_the_later_decides(system: System, first: str) -> None:
    system.create_bot("a", *command(system), *(["--no-start"] if first == "start" else []))
    second = {"start": "stop", "stop": "start"}[first]
    for hurry_s in (0.0, 0.1, 0.2):
        begun = []
        for act in (first, second):
            words = [*system.cli, "--home", str(system.home.config), "bot", act, "a"]
            begun.append(subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=system.environment))
            time.sleep(hurry_s if act == first else 0.0)  # to meet at another place each time
        said = [process.communicate(timeout=60)[1] for process in begun]
        assert 0 in [process.returncode for process in begun], said  # a start may say that it was stopped again
        wanted = wishes(system)["a"]
        row = system.row("a")
        assert (row["enabled"], row["state"] == "running") == (wanted, wanted), said
        system.run("render-config", "--diff")
        system.run("bot", second, "a")  # as before


def test_a_bot_that_ignores_sigterm_is_killed_now_when_told_so(system: System) -> None:
    stubborn = system.directory / "stubborn"
    stubborn.write_text("#!/bin/sh\ntrap '' TERM\nwhile :; do sleep 0.2; done\n")
    stubborn.chmod(0o755)
    system.create_bot("echo", "--command", str(stubborn), "--stop-wait-s", "60s")
    pid = system.pid("echo")
    assert "echo: killed in" in system.run("bot", "stop", "echo", "--now").stderr
    assert not alive(pid)
    assert system.row("echo")["state"] == "stopped"


def test_an_unknown_bot_gets_a_suggestion_and_exit_4(system: System) -> None:
    system.create_bot("echo", *command(system), "--no-start")
    for words in (
        ("start", "ecko"),
        ("stop", "ecko"),
        ("restart", "ecko"),
        ("show", "ecko"),
        ("delete", "ecko", "--yes"),
    ):
        done = system.run("bot", *words, code=4)
        assert done.stderr == "multibot: no bot 'ecko' (did you mean 'echo'?)\n"
    system.run("bot", "stop", code=2)
    system.run("bot", "stop", "echo", "--all", code=2)
    system.run("bot", "stop", "nothing-*", code=4)


def test_delete_asks_keeps_the_work_and_purge_removes_it(system: System) -> None:
    system.create_bot("echo", *command(system))
    pid, work = system.pid("echo"), system.home.bot("echo").work
    assert "add --yes" in system.run("bot", "delete", "echo", code=6).stderr
    assert alive(pid)
    done = system.run("bot", "delete", "echo", "--yes")
    assert f"kept: {work} and {system.home.bot_log('echo')} (--purge " in done.stderr
    assert not alive(pid)
    assert work.is_dir()
    assert not list(work.parent.glob("*.token"))
    assert system.sql("SELECT id FROM bot_configs") == []
    system.create_bot("echo", *command(system))
    done = system.run("bot", "delete", "echo", "--yes", "--purge")
    assert "echo deleted, with its working directory and logs" in done.stderr
    assert not work.parent.exists()
    assert not system.home.bot_log("echo").exists()


def test_with_the_database_away_bots_are_stopped_and_started_and_the_wish_arrives_later(system: System) -> None:
    system.create_bot("echo", *command(system))
    system.create_bot("dice", *command(system))
    token = registered(system, "new")
    system.supervisorctl("stop", "multibot-postgres")
    try:
        done = system.run("bot", "stop", "echo")
        assert "echo: stopped in" in done.stderr
        assert "kept in the journal" in done.stderr
        assert "echo: started in" in system.run("bot", "start", "echo").stderr
        assert "dice: restarted in" in system.run("bot", "restart", "dice").stderr
        system.run("bot", "stop", "dice")
        assert "command" in system.run("bot", "show", "dice").stdout
        for words in (("create", "new", *command(system), "--token-stdin"), ("set", "echo", "--memory-limit", "1GB"),
                      ("delete", "echo", "--yes")):  # fmt: skip
            assert "start'" in system.run("bot", *words, code=5, text=token).stderr
        system.run("apply", code=5)
    finally:
        system.supervisorctl("start", "multibot-postgres")
    wait_for(lambda: not system.json("list", code=0) or wishes(system) == {"echo": True, "dice": False}, "the wishes")
    assert wishes(system) == {"echo": True, "dice": False}


def wishes(system: System) -> dict[str, bool]:
    from multibot_plugin.errors import DatabaseAway

    try:
        return {row["id"]: row["enabled"] for row in system.sql("SELECT id, enabled FROM bot_configs")}
    except DatabaseAway:
        return {}


def test_several_people_create_bots_at_the_same_moment(system: System) -> None:
    tokens = {bot: registered(system, bot) for bot in ("a", "b", "c", "d")}
    system.tokens |= tokens
    begun = []
    for bot, token in tokens.items():
        words = [
            *system.cli,
            "--home",
            str(system.home.config),
            "bot",
            "create",
            bot,
            *command(system),
            "--token-stdin",
        ]
        process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=system.environment
        )
        assert process.stdin is not None
        process.stdin.write(token)
        process.stdin.close()
        process.stdin = None
        begun.append(process)
    said = [process.communicate(timeout=120)[1] for process in begun]
    assert [process.returncode for process in begun] == [0] * 4, said
    assert all(line.count(", running;") == 1 for line in said), said
    system.wait_polling(*tokens)
    system.run("render-config", "--diff")
    uids = [row["uid"] for row in system.sql("SELECT uid FROM bot_configs WHERE uid IS NOT NULL")]
    assert len(set(uids)) == len(uids) == (4 if ROOT else 0)


def test_with_supervisord_away_bots_are_stored_and_start_with_it(system: System) -> None:
    system.create_bot("early", *command(system))
    system.run("stop", "--yes")
    try:
        done = system.run("bot", "stop", "early")  # the database, supervised, is away as well
        assert "will not start with it" in done.stderr
        system.run("bot", "restart", "early", code=5)
        assert not read_rendered(system.home.rendered.read_text())["early"].autostart  # nothing done, nothing wished
        assert "start'" in system.run("bot", "start", "early", code=5).stderr
        assert "start'" in system.run("bot", "restart", "early", code=5).stderr
        shown = system.run("bot", "show", "early").stdout
        assert "supervisord" in shown
        assert shown.splitlines()[-2].endswith(" start")
        system.run("bot", "create", "late", *command(system), "--token-stdin", code=5, text=registered(system, "late"))
    finally:
        system.run("start")
    system.wait_polling("early")


def test_an_earlier_wish_that_waits_in_the_journal_does_not_undo_a_later_one(system: System) -> None:
    system.create_bot("echo", *command(system))
    system.supervisorctl("stop", "multibot-postgres")
    try:
        system.run("bot", "stop", "echo")
    finally:
        system.supervisorctl("start", "multibot-postgres")
        wait_for(lambda: wishes(system), "the database")
    system.run("bot", "start", "echo")
    wait_for(lambda: not list(system.home.journal.glob("[0-9a]*.jsonl")), "an empty journal")
    assert wishes(system) == {"echo": True}
    system.wait_polling("echo")


def test_a_wish_about_a_deleted_bot_is_not_fulfilled_on_a_new_one_of_its_name(system: System) -> None:
    system.create_bot("echo", *command(system))
    system.supervisorctl("stop", "multibot")  # the monitor, which would bring the wish in
    try:
        Journal(system.home.journal).append(Wish(new_id(), 1.0, "operator", "supervisorctl", "echo", False))
        system.run("bot", "delete", "echo", "--yes")
        system.create_bot("echo", *command(system))
    finally:
        system.supervisorctl("start", "multibot")
    wait_for(lambda: not list(system.home.journal.glob("[0-9a]*.jsonl")), "an empty journal")
    assert wishes(system) == {"echo": True}
    system.wait_polling("echo")


def test_a_bot_that_nobody_applied_is_told_apart_from_one_that_is_unknown(system: System) -> None:
    number = 70500 if ROOT else None
    system.sql(
        "INSERT INTO bot_configs (id, launch, target, token, uid) VALUES ('byhand', 'command', $1, $2, $3)",
        command(system)[1], registered(system, "byhand"), number,
    )  # fmt: skip
    assert "is not applied yet: run '" in system.run("bot", "start", "byhand", code=6).stderr
    assert "it is in the database only" in system.run("bot", "show", "byhand").stdout
    assert "byhand: started" in system.run("apply").stderr
