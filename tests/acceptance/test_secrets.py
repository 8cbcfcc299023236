"""Planted tokens are found nowhere: no log, rendered file, answer or audit row; hostile input stays harmless."""

from __future__ import annotations

import urllib.parse
from pathlib import Path

from system import System, wait_for


def places(system: System) -> dict[str, bytes]:
    """Return everything written or answered that is not one of the files that must hold a token."""
    found: dict[str, bytes] = {}
    for top in (system.home.config, system.home.run, system.home.log):
        for path in top.rglob("*"):
            # Below state/bots lie the two files that hold what a bot is given: its token and its environment.
            given = path.is_relative_to(system.home.state / "bots")
            if path.is_file() and not path.is_symlink() and not given and "postgres" not in path.parts:
                found[str(path)] = path.read_bytes()
    for process in system.processes():
        found[f"cmdline of {process.pid}"] = Path(f"/proc/{process.pid}/cmdline").read_bytes()
    for words in (("list",), ("status",), ("bot", "show", "leaky"), ("config", "show"), ("doctor",)):
        found["--json " + " ".join(words)] = system.run(*words, "--json", code=None).stdout.encode()
    for words in (("logs", "leaky", "leaky2"), ("render-config",), ("bot", "show", "leaky")):
        done = system.run(*words)
        found[" ".join(words)] = (done.stdout + done.stderr).encode()
    found["supervisorctl"] = (
        system.supervisorctl("tail", "-20000", "bot-leaky") + system.supervisorctl("bots")
    ).encode()
    found["audit log"] = repr(system.sql("SELECT * FROM audit_log")).encode()
    return found


def test_a_token_is_found_in_no_log_file_answer_or_audit_row(system: System) -> None:
    token = system.create_form("leaky", "script", "--env", "API_SECRET=planted-secret-value")
    other = system.create_form("leaky2", "command")
    system.wait_polling("leaky", "leaky2")
    for bot in ("leaky", "leaky2"):
        system.sandbox.say(system.tokens[bot], "leak")
    wait_for(lambda: "no good" in system.run("logs", "leaky").stdout, "the traceback in the log")
    wait_for(lambda: "my token" in system.run("logs", "leaky2").stdout, "the print in the log")
    system.run("bot", "set", "leaky", "--env", "API_SECRET=another-planted-value")
    old = token
    system.change_token("leaky")
    system.wait_polling("leaky", "leaky2")
    planted = ("planted-secret-value", "another-planted-value")
    written = places(system)
    for secret in (old, other, system.tokens["leaky"], system.tokens["alerts"], *planted):
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
    nasty = "%(ENV_PATH)s ;x #y \"'\\ ${HOME} `id` \u2028 й🤖"
    system.run("bot", "set", "fine", "--env", f"NASTY={nasty}")
    wait_for(lambda: system.pid("fine") != pid, "restarted with the new environment")
    system.wait_polling("fine")
    assert nasty.encode() not in system.home.rendered.read_bytes()
    for text in ("\x1b[31mred\x1b[0m \x07", "й" * 4000, "a\u202eb", "%s %n {0}"):
        system.answers("fine", text)
