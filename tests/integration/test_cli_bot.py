"""`multibot bot create|set|show`, `render-config` and `apply` through the real command line on a real installation."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from pathlib import Path

import psutil
import pytest
from system import System, command, new_token, registered, wait_for

ROOT = os.geteuid() == 0


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def snapshot(system: System) -> tuple[object, ...]:
    """Return everything that a refused command must leave as it was."""
    rows = [dict(row) for row in system.sql("SELECT * FROM bot_configs ORDER BY id")]
    uids = system.sql("SELECT uid FROM bot_uids ORDER BY uid")
    files = {str(p): p.stat().st_mtime_ns for p in (system.home.state / "bots").rglob("*") if "work" not in p.parts}
    rendered = system.home.rendered.read_bytes() if system.home.rendered.exists() else b""
    audit = system.sql("SELECT count(*) FROM audit_log WHERE bot_id IS NOT NULL AND door LIKE 'multibot bot %'")
    return rows, uids, files, rendered, audit


# --- create ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["build", "script", "command"])
def test_a_created_bot_answers_and_the_next_step_is_named(system: System, form: str) -> None:
    token = registered(system, "echo")
    words = {
        "build": ("--build", f"{system.bots}/build_echo.py:build", "--poll-timeout-s", "5s"),
        "script": ("--script", f"{system.bots}/script_echo.py"),
        "command": command(system),
    }[form]
    done = system.run("bot", "create", "echo", *words, "--token-stdin", text=token)
    assert done.stdout == ""
    assert "(@echo_bot) created" in done.stderr
    assert "bot show echo" in done.stderr
    assert token not in done.stderr
    system.tokens["echo"] = token
    system.answers("echo")
    row = system.sql("SELECT enabled, uid FROM bot_configs WHERE id = 'echo'")[0]
    assert row["enabled"]
    assert (row["uid"] is not None) is ROOT
    assert system.audit("echo", door="multibot bot create")


def test_a_script_by_a_relative_path_is_found_from_where_the_caller_is(system: System) -> None:
    token = registered(system, "echo")
    done = subprocess.run(
        [*system.cli, "--home", str(system.home.config), "bot", "create", "echo", "--script", "script_echo.py",
         "--token-stdin", "--no-start"],
        input=token, capture_output=True, text=True, cwd=system.bots, env=system.environment, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert system.sql("SELECT target FROM bot_configs")[0]["target"] == f"{system.bots}/script_echo.py"


def test_a_bot_that_is_not_to_be_started_is_stored_and_rendered_but_does_not_run(system: System) -> None:
    done = system.run("bot", "create", "echo", *command(system), "--token-stdin", "--no-start",
                      text=registered(system, "echo"))  # fmt: skip
    assert "bot start echo" in done.stderr
    assert system.row("echo")["state"] == "stopped"
    assert system.row("echo")["enabled"] is False


def test_what_is_wrong_is_refused_with_the_remedy_and_leaves_nothing_behind(system: System) -> None:
    busy = socket.create_server(("127.0.0.1", 0))
    own, used = str(free_port()), str(busy.getsockname()[1])
    system.create_bot("shop", *command(system), "--no-start", "--port", own)
    here = system.directory / "wrong"
    here.mkdir(exist_ok=True)
    (here / "missing.py").write_text("import no_such_library\n")
    (here / "broken.py").write_text("def :\n")
    good = ("--script", f"{system.bots}/script_echo.py")
    revoked = registered(system, "revoked")
    system.sandbox.revoke(revoked)
    fresh, taken = registered(system, "fresh"), system.tokens["shop"]
    same_number = f"{taken.partition(':')[0]}:{'B' * 35}"
    cases = [
        (("Bad_Id", *good), fresh, 2, "an id is 1 to 39"),
        (("new", *good), "TOKEN", 2, "does not look like one from @BotFather"),
        (("new", *good), taken, 6, "the token of 'new' is already used by 'shop': one token can be polled once"),
        (("new", *good), same_number, 6, "'shop' already is"),
        (("shop", *good), fresh, 6, "bot 'shop' exists already"),
        (("new", *good), revoked, 6, "Telegram rejects this token (401 Unauthorized)"),
        (("new", *good, "--bot-api-url", "http://127.0.0.1:1"), fresh, 1, "--no-check"),
        (("new", "--script", "/no/such/bot.py"), fresh, 2, "does not exist"),
        (("new", "--script", f"{here}/missing.py"), fresh, 6, "give --python /path/venv/bin/python"),
        (("new", "--script", f"{here}/broken.py"), fresh, 6, "line 1"),
        (("new", "--build", "no.such.module:build"), fresh, 6, "No module named 'no.such.module'"),
        (("new", "--build", f"{system.bots}/build_echo.py:other"), fresh, 6, "no function 'other'"),
        (("new", "--command", "no-such-program"), fresh, 2, "not found in PATH"),
        (("new", *good, "--memory-limit", "plenty"), fresh, 2, "memory_limit 'plenty' is not a size (like 256MB)"),
        (("new", *good, "--env-file", "/no/such/env"), fresh, 2, "env-file"),
        (("new", *good, "--workdir", "/no/such/dir"), fresh, 2, "create it first"),
        (("new", *good, "--user", "no-such-account"), fresh, 2 if ROOT else 6, "no-such-account"),
        (("new", *good, "--port", own), fresh, 6, f"port {own} of 'new' is already the port of 'shop'"),
        (("new", *good, "--port", used), fresh, 6, f"port {used} of 'new' is in use by"),
        (("new", "--build", f"{system.bots}/build_echo.py:build", "--receives", "webhook"), fresh, 2, "--port 8443"),
        (("new", *good, "--receives", "mail"), fresh, 2, "one of auto, polling, webhook, nothing"),
        (("new",), fresh, 2, "--script FILE"),
    ]  # fmt: skip
    before = snapshot(system)
    for words, token, code, text in cases:
        done = system.run("bot", "create", *words, "--token-stdin", code=code, text=token)
        assert text in done.stderr, (words, done.stderr)
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr
        assert token == "TOKEN" or token.partition(":")[2] not in done.stdout + done.stderr
        assert snapshot(system) == before, words
    system.run("bot", "create", "new", *good, code=2)
    assert snapshot(system) == before
    busy.close()


def test_a_port_that_two_bots_have_or_somebody_else_is_told_by_apply_and_doctor(system: System) -> None:
    ports = free_port(), free_port()
    for bot, port in zip(("first", "second"), ports, strict=True):
        system.create_bot(bot, *command(system), "--no-start", "--port", str(port))
    same = "UPDATE bot_configs SET settings = settings || jsonb_build_object('port', $1::int) WHERE id = $2"
    system.sql(same, ports[0], "second")
    done = system.run("apply", code=1)
    assert f"second: left as it is: bot 'second': port {ports[0]} is already the port of 'first'" in done.stderr
    with socket.create_server(("127.0.0.1", 0)) as busy:
        used = busy.getsockname()[1]
        system.sql(same, used, "second")
        done = system.run("apply")
        assert f"second: its port {used} is in use by" in done.stderr
        told = json.loads(system.run("doctor", "-o", "json", code=1).stdout)["checks"]
        (check,) = [c for c in told if c["check"] == "ports"]
        assert check["text"].startswith(f"port {used} of second is in use by")
        assert check["remedies"][0].endswith("bot set second --port N")
    told = json.loads(system.run("doctor", "-o", "json", code=None).stdout)["checks"]
    assert [c["text"] for c in told if c["check"] == "ports"] == [
        "ports: 2 declared by bots, no stranger listens on one"
    ]


@pytest.mark.root
def test_a_script_that_the_bots_user_cannot_read_names_the_remedy_and_takes_no_user_id(system: System) -> None:
    private = system.directory / "private.py"
    private.write_text("")
    private.chmod(0o600)
    before = snapshot(system)
    done = system.run("bot", "create", "new", "--script", str(private), "--token-stdin", code=6,
                      text=registered(system, "new"))  # fmt: skip
    assert f"cannot read {private}: chmod o+r it" in done.stderr
    assert snapshot(system) == before


def test_without_checks_a_bot_that_cannot_run_is_stored_and_its_trouble_is_told(system: System) -> None:
    token = registered(system, "echo")
    system.sandbox.revoke(token)
    words = ("bot", "create", "echo", "--script", f"{system.bots}/script_echo.py", "--token-stdin", "--no-check")
    done = system.run(*words, text=token, code=1)
    assert "echo is stored, but gave up: Telegram rejected the token" in done.stderr
    shown = system.run("bot", "show", "echo").stdout
    assert "quarantined" in shown
    assert "bot set echo --token-stdin" in shown


def test_a_token_in_a_command_is_warned_of_and_never_printed(system: System) -> None:
    planted, second = new_token(), new_token()
    form, line = command(system)
    told = [system.run("bot", "create", "echo", form, f"{line} {planted}", "--token-stdin", "--json",
                       text=registered(system, "echo"))]  # fmt: skip
    assert "warning: the command holds something like a token" in told[0].stderr
    told.append(system.run("bot", "set", "echo", form, f"{line} {second}", "--no-apply"))
    for words in ("render-config --diff", "render-config --json", "apply --json", "bot show echo",
                  "bot show echo --json", "list -o wide", "status --json"):  # fmt: skip
        told.append(system.run(*words.split(), code=None))
    system.sql("UPDATE bot_configs SET launch = 'build' WHERE id = 'echo'")
    for words in ("render-config", "apply", "bot show echo"):
        told.append(system.run(*words.split(), code=None))
    assert "<redacted>" in told[-1].stdout
    for done in told:
        for token in (planted, second):
            assert token.partition(":")[2] not in done.stdout + done.stderr, done.args


# --- set -------------------------------------------------------------------------------------------------------


def test_a_change_of_one_bot_leaves_what_is_pending_for_the_others_and_says_so(system: System) -> None:
    for bot in ("one", "two"):
        system.create_bot(bot, *command(system))
    before = {bot: system.pid(bot) for bot in ("one", "two")}
    apply = system.home.command("apply")
    system.run("config", "set", "stop_wait_s", "11s")
    try:
        done = system.run("bot", "set", "one", "--env", "A=1")
        assert "one: restarted" in done.stderr
        assert f"two: differs from what is applied, left as it is: '{apply}'\n" in done.stderr
        assert (system.pid("one") != before["one"], system.pid("two")) == (True, before["two"])
        system.create_bot("three", *command(system))
        system.run("bot", "delete", "three", "--yes", "--purge")
        assert system.pid("two") == before["two"]
        assert "two: restarted (stop_wait_s 10s → 11s)" in system.run("apply").stderr
    finally:
        system.run("config", "set", "stop_wait_s", "10s")
        system.run("apply")


def test_a_setting_of_this_shell_alone_is_named(system: System) -> None:
    system.create_bot("echo", *command(system))
    told = (
        "MULTIBOT_STOP_WAIT_S of this shell is used, not multibot.toml: "
        f"'{system.home.command('config set stop_wait_s ...')}' keeps it\n"
    )
    for words in (("apply",), ("bot", "set", "echo", "--env", "A=1")):
        assert told in system.run(*words, MULTIBOT_STOP_WAIT_S="12s").stderr
    assert told not in system.run("apply", MULTIBOT_STOP_WAIT_S="10s").stderr
    assert "MULTIBOT" not in system.run("apply").stderr


def test_a_live_setting_restarts_nothing_and_another_restarts_the_bot(system: System) -> None:
    system.create_bot("echo", *command(system))
    pid = system.pid("echo")
    done = system.run("bot", "set", "echo", "--memory-limit", "300MB")
    assert "memory_limit none → 300MB (live)" in done.stderr
    assert "without a restart" in done.stderr
    assert system.pid("echo") == pid
    done = system.run("bot", "set", "echo", "--env", "GREETING=hunter2", "--stop-wait-s", "5s")
    assert "env.GREETING (added)" in done.stderr
    assert "stop_wait_s 10s → 5s" in done.stderr
    assert "restarted" in done.stderr
    assert "hunter2" not in done.stderr + done.stdout
    assert system.pid("echo") != pid
    pid = system.pid("echo")
    assert "it was so already" in system.run("bot", "set", "echo", "--memory-limit", "300MB").stderr
    system.run("bot", "set", "echo", "--unset", "memory_limit", "--unset", "stop-wait-s", "--unset-env", "GREETING")
    row = system.sql("SELECT settings, env FROM bot_configs")[0]
    assert (row["settings"], row["env"]) == ({}, {})
    assert system.pid("echo") != pid
    assert "hunter2" not in str(system.sql("SELECT detail FROM audit_log"))


def test_a_change_that_cannot_work_is_refused_and_changes_nothing(system: System) -> None:
    system.create_bot("echo", *command(system))
    system.create_bot("shop", *command(system), "--no-start")
    pid, before = system.pid("echo"), snapshot(system)
    for words, code, text, token in (
        (("--script", "/no/such/file.py"), 2, "does not exist", ""),
        (("--token-stdin",), 6, "is already used by 'shop'", system.tokens["shop"]),
        (("--unset", "memory_limt"), 2, "did you mean 'memory_limit'", ""),
        (("--unset-env", "GREETING"), 2, "has no variable 'GREETING'", ""),
        ((), 2, "nothing to change", ""),
    ):
        done = system.run("bot", "set", "echo", *words, code=code, text=token)
        assert text in done.stderr, (words, done.stderr)
        assert snapshot(system) == before
    assert "did you mean 'echo'" in system.run("bot", "set", "ecko", "--memory-limit", "64MB", code=4).stderr
    assert system.pid("echo") == pid


def test_a_new_token_brings_a_bot_back_whose_token_was_revoked(system: System) -> None:
    system.create_bot("echo", "--script", f"{system.bots}/script_echo.py")
    system.sandbox.revoke(system.tokens["echo"])
    wait_for(lambda: "unauthorised" in (system.row("echo")["health"], system.row("echo")["cause"]), "the rejection")
    assert "bot set echo --token-stdin" in system.run("bot", "show", "echo").stdout
    system.change_token("echo")
    system.wait_polling("echo")
    system.answers("echo")


def test_a_program_of_somebody_else_keeps_its_name(system: System) -> None:
    own = system.home.config / "conf.d" / "own.conf"
    own.write_text("[program:bot-foo]\ncommand=/bin/sleep 600\n")
    system.supervisorctl("update", "bot-foo")
    pid, why = system.supervisorctl("pid", "bot-foo"), "supervisord has a program bot-foo that is not multibot's"
    try:
        before, token = snapshot(system), registered(system, "foo")
        words = ("bot", "create", "foo", *command(system), "--token-stdin")
        assert system.run(*words, code=6, text=token).stderr == f"multibot: {why}: choose another id\n"
        assert snapshot(system) == before
        system.sql(
            "INSERT INTO bot_configs (id, launch, target, token, uid) VALUES ('foo', 'command', $1, $2, $3)",
            command(system)[1], token, 70501 if ROOT else None,
        )  # fmt: skip
        remedy = f"rename that, or '{system.home.command('bot delete foo')}'"
        assert f"foo: left as it is: {why}: {remedy}" in system.run("apply", code=1).stderr
        shown = " ".join(system.run("status", code=3).stdout.split())
        assert f"▲ foo {why}: {remedy}" in shown
        assert "differs" not in shown
        system.run("bot", "delete", "foo", "--yes")
        system.run("status")
        assert system.supervisorctl("pid", "bot-foo") == pid
    finally:
        own.unlink()
        system.supervisorctl("update", "bot-foo")


def test_a_change_can_wait_for_apply(system: System) -> None:
    system.create_bot("echo", *command(system))
    pid = system.pid("echo")
    system.run("bot", "set", "echo", "--env", "A=1", "--no-apply")
    assert system.pid("echo") == pid
    assert "env.A" in system.run("render-config", "--diff", code=10).stdout
    done = system.run("apply")
    assert "echo: restarted (env.A added)" in done.stderr
    assert "1 bot: 1 restarted" in done.stderr
    assert system.pid("echo") != pid
    assert "nothing to do" in system.run("apply").stderr
    system.run("render-config", "--diff")


# --- show, render-config, apply ------------------------------------------------------------------------


def test_show_tells_everything_but_secrets(system: System) -> None:
    system.create_bot("echo", "--script", f"{system.bots}/script_echo.py", "--env", "KEY=hunter2")
    system.sandbox.say(system.tokens["echo"], "leak")
    wait_for(lambda: "no good" in system.home.bot_log("echo").read_text(), "the leak")
    shown = system.run("bot", "show", "echo").stdout + json.dumps(system.json("bot", "show", "echo"))
    for word in ("script_echo.py", "KEY", "created", "no good"):
        assert word in shown
    assert "hunter2" not in shown
    assert system.tokens["echo"].partition(":")[2] not in shown


def test_render_config_writes_nothing_and_holds_no_secret(system: System) -> None:
    system.create_bot("echo", *command(system), "--env", "KEY=hunter2")
    system.sql("UPDATE bot_configs SET settings = '{\"stop_wait_s\": 3}'")
    before = snapshot(system)
    text = system.run("render-config").stdout
    assert "[program:bot-echo]" in text
    assert "stopwaitsecs=5" in text
    difference = system.run("render-config", "--diff", code=10).stdout
    assert "stop_wait_s   10s → 3s" in difference
    assert json.loads(system.run("render-config", "--json", code=10).stdout)["changed"][0]["bot"] == "echo"
    for shown in (text, difference):
        assert "hunter2" not in shown
        assert system.tokens["echo"].partition(":")[2] not in shown
    assert snapshot(system) == before
    output = system.directory / "out.conf"
    system.run("render-config", "--output", str(output))
    assert output.read_text() == text
    assert system.home.rendered.read_bytes() == before[3]
    system.run("apply")


def test_one_bad_row_is_told_and_the_others_are_applied(system: System) -> None:
    system.create_bot("good", *command(system))
    system.create_bot("bad", *command(system))
    pid = system.pid("bad")
    system.sql("UPDATE bot_configs SET settings = '{\"memory_limit\": \"plenty\"}' WHERE id = 'bad'")
    system.sql("UPDATE bot_configs SET env = '{\"A\": \"1\"}' WHERE id = 'good'")
    done = system.run("apply", code=1)
    assert "good: restarted" in done.stderr
    assert "memory_limit 'plenty' is not a size (like 256MB)" in done.stderr
    assert system.pid("bad") == pid
    assert "memory_limit" in system.run("bot", "show", "bad").stdout
    system.run("bot", "set", "bad", "--memory-limit", "64MB")  # the way out
    assert system.pid("bad") == pid
    system.run("apply")


# --- something is away -----------------------------------------------------------------------------------------


def test_the_token_on_the_command_line_or_in_a_file_never_comes_out_again(system: System, tmp_path: Path) -> None:
    token = registered(system, "echo")
    (tmp_path / "token").write_text(token)
    secret = token.partition(":")[2]
    words = ("bot", "create", "echo", *command(system))
    outputs = [
        system.run(*words, "--token", token),
        system.run("bot", "show", "echo"),
        system.run("bot", "show", "echo", "--json"),
        system.run("bot", "set", "echo", "--token-file", str(tmp_path / "token")),
        system.run("--debug", *words, "--token", token, code=6),
        system.run("render-config"),
        system.run("bot", "delete", "echo", "--yes"),
        system.run(*words, "--token-env", "MINE", MINE=token),
        system.run("--debug", "bot", "set", "echo", "--token", token, "--bot-api-url", "http://127.0.0.1:1", code=1),
    ]
    system.tokens["echo"] = token
    assert "warning" in outputs[0].stderr
    for done in outputs:
        assert secret not in done.stdout + done.stderr, done.args


@pytest.mark.parametrize("document", ['{"deaths_limit": 1e5000}', '{"deaths_limit": ' + "[" * 3000 + "]" * 3000 + "}"])
def test_a_row_that_python_cannot_read_is_shown_mended_and_deleted(system: System, document: str) -> None:
    for bot in ("echo", "other"):
        system.create_bot(bot, *command(system))
    broken = "UPDATE bot_configs SET settings = $1::text::jsonb WHERE id = 'echo'"
    system.sql(broken, document)
    assert "number too long or a value too deep" in system.run("apply", code=1).stderr
    assert "number too long or a value too deep" in system.run("bot", "show", "echo").stdout
    system.json("bot", "show", "echo")
    system.run("bot", "set", "other", "--deaths-limit", "5")
    system.run("bot", "set", "echo", "--unset", "deaths_limit")
    system.run("bot", "show", "echo")
    system.sql(broken, document)
    system.run("bot", "delete", "echo", "--yes")


def test_more_than_the_runner_reads_is_refused_and_changes_nothing(system: System) -> None:
    system.create_bot("echo", *command(system))
    before = snapshot(system)
    large = [word for n in range(4) for word in ("--env", f"LARGE{n}={'x' * 100_000}")]
    assert "larger than 256 KiB" in system.run("bot", "set", "echo", *large, code=2).stderr
    assert snapshot(system) == before


@pytest.mark.root
def test_a_named_account_runs_a_bot_instead_of_a_user_id_of_its_own(system: System) -> None:
    done = system.run("bot", "create", "echo", *command(system), "--user", "daemon", "--token-stdin",
                      text=registered(system, "echo"))  # fmt: skip
    assert "as daemon" in done.stderr
    assert psutil.Process(system.pid("echo")).username() == "daemon"
    assert system.sql("SELECT uid FROM bot_configs") == [{"uid": None}]
    system.run("bot", "set", "echo", "--unset", "user", "--no-check")
    assert "taken for two deaths" not in system.home.bot_log("echo").read_text()  # the record is the other user's
    (row,) = system.sql("SELECT uid FROM bot_configs")
    assert psutil.Process(system.pid("echo")).uids().real == row["uid"] >= 70000
