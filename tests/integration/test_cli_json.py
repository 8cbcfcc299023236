"""``--json`` everywhere: each command prints one JSON object, also where nothing had to be done."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import click
import pytest
from system import System, new_token

from multibot_plugin.cli import main

# demo tells a story; serve runs until it is interrupted; run and exec become the bot and a command. logs prints one
# object per line.
WITHOUT = {"demo", "sandbox serve", "bot run", "bot exec"}


def leaves(group: click.Group = main, path: str = "") -> Iterator[tuple[str, click.Command]]:
    """Yield every command that can be typed, with its words."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        words = f"{path} {name}".strip()
        if isinstance(command, click.Group):
            yield from leaves(command, words)
        elif words not in WITHOUT:
            yield words, command


LEAVES = dict(leaves())


@pytest.mark.parametrize("words", LEAVES)
def test_every_command_takes_json(words: str) -> None:
    assert any("--json" in parameter.opts for parameter in LEAVES[words].params)


class Session:
    """Types commands with --json and checks their answers; ``seen``: what was typed, by its name in the table."""

    def __init__(self, system: System) -> None:
        self.system = system
        self.seen: set[str] = set()

    def __call__(self, words: str, *more: str, code: int | None = 0, text: str | None = None) -> dict[str, Any]:
        done = self.system.run(*words.split(), *more, "--json", code=code, text=text)
        self.seen.add(words)
        answer = json.loads(done.stdout)
        assert answer["schema"] == 1, done.stdout
        return dict(answer)


def without_supervisord(do: Session, system: System) -> None:
    """What can be done before ``start`` and after ``stop``."""
    assert do("stop", "--yes")["stopped"] is False
    (system.directory / "alerts-token").chmod(0o600)
    assert do("config validate")["ok"] is True
    assert do("config set", "deaths_limit", "5")["setting"]["changed"] is True
    assert do("config set", "deaths_limit", "5")["setting"]["changed"] is False
    assert do("config get", "deaths_limit")["settings"][0]["value"] == 5
    assert len(do("config show")["settings"]) > 10
    assert do("bot stop", "--all") == {"schema": 1, "bots": []}
    files = do("init", "--yes")["files"]
    assert files[str(system.home.supervisord_conf)] == "kept"


def with_a_bot(do: Session, system: System) -> None:
    token = new_token()
    system.sandbox.register(token, "echo")
    system.tokens["echo"] = token
    script = f"{system.bots}/script_echo.py"
    assert do("bot create", "echo", "--script", script, "--token-stdin", text=token)["bot"]["ok"]
    assert do("bot set", "echo", "--memory-limit", "1GB")["bot"]["effect"] == "live"
    assert do("bot set", "echo", "--memory-limit", "1GB")["bot"]["effect"] == "none"
    assert do("bot set", "echo", "--memory-limit", "2GB", "--no-apply")["bot"]["effect"] == "stored"
    assert do("render-config", code=10)["pending"]
    assert do("apply")["applied"]
    system.wait_polling("echo")
    assert do("bot show", "echo")["bot"]["id"] == "echo"
    assert do("list")["bots"][0]["id"] == "echo"
    assert "ok" in do("status", code=None)
    assert "ok" in do("doctor", code=None)
    url = ("--url", system.sandbox.url)
    assert [entry["text"] for entry in do("sandbox say", "echo", "hello", *url)["entries"]] == ["hello", "hello"]
    assert do("sandbox transcript", *url)["entries"]
    assert do("sandbox bots", *url)["bots"]
    assert do("sandbox fault", "echo", "--status", "502", "--times", "1", *url)["fault"]["status"] == 502
    assert do("sandbox fault", "echo", "--clear", *url)["fault"]["bot"] == "echo"
    lines = system.run("logs", "echo", "--json").stdout.splitlines()
    assert all(json.loads(line)["bot"] == "echo" for line in lines)
    for act in ("restart", "stop", "start"):
        assert [row["ok"] for row in do(f"bot {act}", "echo")["bots"]] == [True]


def test_every_command_prints_one_json_object() -> None:
    with System.create(start=False) as system:
        do = Session(system)
        without_supervisord(do, system)
        assert do("start")["supervisord"]["ran_already"] is False
        assert do("start")["supervisord"]["ran_already"] is True
        with_a_bot(do, system)
        assert do("stop", "--yes")["bots"] == ["echo"]
        assert do("bot stop", "echo")["bots"][0]["ok"]
        (row,) = do("bot start", "echo", code=5)["bots"]
        assert (row["ok"], row["text"]) == (False, "will start with supervisord")
        assert do("start")["schema"] == 1
        assert do("sandbox revoke", "echo", "--url", system.sandbox.url)["bot"]["revoked"]
        assert do("bot delete", "echo", "--yes")["bot"]["deleted"]
    # The buttons of a bot: tests/integration/test_sandbox_process.py.
    assert do.seen == set(LEAVES) - {"logs", "sandbox tap"}
