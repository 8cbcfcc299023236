"""XML-RPC and supervisorctl on a whole installation: stock clients start, stop and apply; the monitor does it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import xmlrpc.client
from pathlib import Path
from typing import Any

import psutil
import pytest
from system import System, alive, command, wait_for

PAGE = Path(__file__).resolve().parents[2] / "docs" / "rpc.md"


@pytest.fixture
def echo(system: System) -> System:
    """The installation with one bot ``echo`` that runs."""
    system.create_bot("echo", *command(system))
    return system


def carried_out(server: Any, method: str, *arguments: str) -> dict[str, Any]:
    """Ask for something and return the result, when it has ended."""
    request = getattr(server.multibot, method)(*arguments)

    def ended() -> dict[str, Any] | None:
        found: dict[str, Any] = json.loads(server.multibot.getResult(request))
        return found if found["state"] in ("done", "failed") else None

    return wait_for(ended, f"the end of {method}") or {}


def bot(server: Any, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(server.multibot.getBot(name))["bot"]
    return found


def doors(system: System, bot: str, action: str) -> list[tuple[str, str]]:
    """Return who did ``action`` to this bot by which door; the installation may have had one of its name before."""
    rows = system.audit(bot)
    begun = max(row["at"] for row in rows if row["action"] == "bot.created")
    return [(row["actor"], row["door"]) for row in rows if row["action"] == action and row["at"] >= begun]


def test_a_stock_client_stops_starts_and_applies_and_the_audit_log_names_it(echo: System) -> None:
    pid = echo.pid("echo")
    with echo.xmlrpc() as server:
        wait_for(lambda: bot(server, "echo")["health"] == "healthy", "health told by the monitor")
        assert [row["id"] for row in json.loads(str(server.multibot.getBots()))["bots"]] == ["echo"]
        found = carried_out(server, "stopBot", "echo")
        assert (found["state"], found["exit_code"]) == ("done", 0)
        assert re.fullmatch(r"echo: stopped in .* s", found["text"])
        assert not alive(pid)
        assert [row["enabled"] for row in echo.sql("SELECT enabled FROM bot_configs")] == [False]
        assert carried_out(server, "startBot", "echo", "ada (my dashboard)")["text"].startswith("echo: started in")
        echo.wait_polling("echo")
        echo.sql("UPDATE bot_configs SET target = target || ' again'")
        applied = carried_out(server, "apply", "ada")
        assert (applied["text"], applied["result"]["restarted"]) == ("1 bot: 1 restarted", ["echo"])
        assert any(line.startswith("echo: restarted") for line in applied["said"])
    echo.run("render-config", "--diff")
    account = echo.sql("SELECT actor FROM audit_log WHERE bot_id = 'echo' AND action = 'bot.created'")[0]["actor"]
    assert doors(echo, "echo", "bot.disabled") == [(account, "XML-RPC stopBot")]
    assert doors(echo, "echo", "bot.enabled") == [("ada", "my dashboard (XML-RPC startBot)")]
    wait_for(lambda: doors(echo, "echo", "bot.started") == [("ada", "my dashboard (XML-RPC startBot)")], "the record")
    token = echo.tokens["echo"].partition(":")[2]
    assert not [f for f in (echo.home.state / "results").iterdir() if token in f.read_text()]


def test_the_examples_of_the_documentation_work(echo: System) -> None:
    for language, program in (("python", (sys.executable, "-")), ("js", ("node", "-"))):
        match = re.search(rf"```{language}\n(.*?)```", PAGE.read_text(), re.DOTALL)
        assert match is not None
        pid = echo.pid("echo")
        done = run([*program, str(echo.home.socket), "echo"], match[1])
        assert (done.returncode, done.stderr) == (0, "")
        assert re.fullmatch(r"echo running \w+\necho: restarted in .*\n", done.stdout)
        assert echo.pid("echo") != pid
        unknown = run([*program, str(echo.home.socket), "ecko"], match[1])
        assert (unknown.returncode, unknown.stderr[-9:]) == (1, "BAD_NAME\n")


def run(words: list[str], text: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, input=text, capture_output=True, text=True, timeout=60, check=False)


def test_supervisorctl_does_it_to_several_bots_and_says_how_each_came_out(echo: System) -> None:
    echo.create_bot("off", "--command", "/bin/false", "--no-start")
    left, restarted = echo.supervisorctl("bot_restart", "*").splitlines()
    assert left == "off: is stopped, left so"
    assert restarted.startswith("echo: restarted in")
    one, other = sorted(echo.supervisorctl("bot_start", "*", code=1).splitlines())
    assert one == "echo: is running already"
    assert re.match(r"off: (died|gave up).* logs off'$", other)
    assert echo.supervisorctl("bot_apply") == "2 bots: nothing to do\n"
    assert [door for _, door in doors(echo, "off", "bot.enabled")] == ["supervisorctl bot_start (XML-RPC startBot)"]
    stopped = sorted(echo.supervisorctl("bot_stop", "off", "echo").splitlines())
    assert [line.split(" in ")[0] for line in stopped] == ["echo: stopped", "off: stopped"]
    # supervisorctl's own words on a bot are an operator's, too.
    echo.supervisorctl("start", "bot-echo")
    wait_for(lambda: [d for _, d in doors(echo, "echo", "bot.enabled") if d.startswith("supervisorctl (")], "the wish")
    assert echo.row("echo")["enabled"]


def test_a_monitor_that_is_killed_takes_its_work_with_it_and_the_next_one_says_so(echo: System) -> None:
    stubborn = echo.directory / "stubborn"
    stubborn.write_text("#!/bin/sh\ntrap '' TERM\nwhile :; do sleep 0.2; done\n")
    stubborn.chmod(0o755)
    echo.create_bot("slow", "--command", str(stubborn), "--stop-wait-s", "300s")
    with echo.xmlrpc() as server:
        request = server.multibot.stopBot("slow")
        wait_for(lambda: echo.row("slow")["state"] == "stopping", "the stop")
        assert json.loads(str(server.multibot.getResult(request)))["state"] == "running"
        monitor = psutil.Process(server.supervisor.getProcessInfo("multibot")["pid"])  # type: ignore[index, arg-type]
        (errand,) = [child for child in monitor.children() if "multibot_plugin.supervisor.errand" in child.cmdline()]
        monitor.kill()
        wait_for(lambda: not alive(errand.pid), "its end")
        found = wait_for(lambda: failed(server, request), "what the next monitor says")
        assert found["text"].startswith("cut off")
        pid = echo.pid("echo")
        wait_for(lambda: json.loads(str(server.multibot.getIncidents()))["monitor"]["ok"], "the next monitor's report")
        assert carried_out(server, "restartBot", "echo")["state"] == "done"
        assert echo.pid("echo") != pid
    echo.run("bot", "stop", "slow", "--now")


def failed(server: Any, request: Any) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads(server.multibot.getResult(request))
    except (xmlrpc.client.Error, OSError):
        return None
    return found if found["state"] == "failed" else None
