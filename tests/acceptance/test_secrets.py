"""Planted tokens are found nowhere: no log, rendered file, answer or audit row; hostile input stays harmless."""

from __future__ import annotations

import contextlib
import urllib.parse
from pathlib import Path

import asyncpg
from system import System, new_token, wait_for


def places(system: System, *bots: str) -> dict[str, bytes]:
    """Return everything written or answered that is not one of the files that must hold a token."""
    found: dict[str, bytes] = {}
    for top in (system.home.config, system.home.run, system.home.log):
        for path in top.rglob("*"):
            # <digest>.json and .token are what a bot is given: its environment and its token.
            given = path.parent.parent == system.home.state / "bots" and path.name != "live.json"
            if path.is_file() and not path.is_symlink() and not given and "postgres" not in path.parts:
                found[str(path)] = path.read_bytes()
    for process in system.processes():
        found[f"cmdline of {process.pid}"] = Path(f"/proc/{process.pid}/cmdline").read_bytes()
    for words in (("list",), ("status",), *(("bot", "show", b) for b in bots), ("config", "show"), ("doctor",)):
        found["--json " + " ".join(words)] = system.run(*words, "--json", code=None).stdout.encode()
    for words in (("logs", *bots), ("render-config",), *(("bot", "show", b) for b in bots)):
        done = system.run(*words)
        found[" ".join(words)] = (done.stdout + done.stderr).encode()
    with system.xmlrpc() as server:
        for bot in bots:
            found[f"tail of {bot}"] = str(server.supervisor.tailProcessStdoutLog(f"bot-{bot}", 0, 100_000)).encode()
        for method in ("supervisor.getAllProcessInfo", "supervisor.getAllConfigInfo", "multibot.getBots"):
            found[method] = repr(getattr(server, method)()).encode()
    found["supervisorctl bots"] = system.supervisorctl("bots").encode()
    found["audit log"] = repr(system.sql("SELECT * FROM audit_log")).encode()
    return found


def test_a_token_is_found_in_no_log_file_answer_or_audit_row(system: System) -> None:
    bots = ("build", "script", "command")
    for bot in bots:
        system.create_form(bot, bot, "--env", f"API_SECRET=planted-secret-of-{bot}")
    system.wait_polling(*bots)
    secrets = set(system.tokens.values())
    for bot, part in zip(bots, ("no good", "no good", "my token"), strict=True):
        system.sandbox.say(system.tokens[bot], "leak")
        wait_for(lambda b=bot, p=part: p in system.run("logs", b).stdout, f"what {bot} says of its token")
    system.run("bot", "set", "script", "--env", "API_SECRET=planted-secret-anew")
    system.change_token("script")
    system.wait_polling(*bots)
    secrets |= {*system.tokens.values(), "planted-secret-"}
    written = places(system, *bots)
    for secret in secrets:
        for form in (secret, urllib.parse.quote(secret, safe=""), secret.partition(":")[2] or secret):
            assert not [where for where, text in written.items() if form.encode() in text]


def test_hostile_ids_settings_and_messages_do_no_harm(system: System) -> None:
    system.create_form("fine", "script")
    system.wait_polling("fine")
    pid = system.pid("fine")
    before = system.home.rendered.read_bytes()
    for bot in ("UPPER", "a b", "a:b", "../x", "a]\ncommand=/bin/evil", "-x", "x" * 40, "ä", "%(here)s", "a;b"):
        system.run("bot", "create", "--script", str(system.bots / "script_echo.py"), "--token-stdin", "--no-check",
                   "--", bot, text=system.tokens["fine"], code=2)  # fmt: skip
    assert system.home.rendered.read_bytes() == before
    script, command = str(system.bots / "script_echo.py"), f"/usr/bin/python3 {system.bots}/command_echo.py"
    for options in (
        ("--script", f"{script}\n[program:evil]"), ("--build", "a b:c"), ("--build", "os"),
        ("--command", '"'), ("--command", " "), ("--command", "x\ncommand=/bin/evil"),
        ("--command", command, "--token-var", "A B"), ("--command", command, "--workdir", "/x\n[program:evil]"),
        ("--command", command, "--env", "A B=c"), ("--command", command, "--env", "novalue"),
        ("--command", command, "--memory-limit", "plenty"), ("--command", command, "--stop-wait-s", "-1"),
        ("--command", command, "--stop-wait-s", "nan"), ("--command", command, "--bot-api-url", "ftp://x"),
    ):  # fmt: skip
        done = system.run("bot", "create", "new", *options, "--token-stdin", "--no-check", text=new_token(), code=None)
        assert done.returncode in (2, 6), (options, done)
        assert done.stderr.strip().count("\n") == 0 or "Usage:" in done.stderr, done.stderr
        assert "Traceback" not in done.stderr
    for change in ("id = E'a]\\n'", "env = '[]'", 'settings = \'{"stop_wait_s": "no"}\'', "target = 'relative'"):
        with contextlib.suppress(asyncpg.PostgresError):  # what the table itself refuses is as good
            system.sql(f"UPDATE bot_configs SET {change} WHERE id = 'fine'")
            done = system.run("apply", code=1)
            assert "fine" in done.stderr
            system.sql("UPDATE bot_configs SET env = '{}', settings = '{}', target = $1 WHERE id = 'fine'", script)
    assert system.home.rendered.read_bytes() == before
    assert system.pid("fine") == pid
    nasty = "%(ENV_PATH)s ;x #y \"'\\ ${HOME} `id` \u2028 й🤖"
    system.run("bot", "set", "fine", "--env", f"NASTY={nasty}")
    wait_for(lambda: system.pid("fine") != pid, "restarted with the new environment")
    system.wait_polling("fine")
    assert nasty.encode() not in system.home.rendered.read_bytes()
    for text in ("\x1b[31mred\x1b[0m \x07", "й" * 4000, "a\u202eb", "%s %n {0}"):
        system.answers("fine", text)
