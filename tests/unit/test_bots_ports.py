"""Whose port is it: asked of rows, and of real sockets."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from multibot_plugin.bots.config import BotConfig
from multibot_plugin.bots.ports import check_port_free, check_port_unused, listening, stranger
from multibot_plugin.errors import BadValue, Refused
from multibot_plugin.home import Home, find_home
from multibot_runner.family import MARK
from multibot_runner.protocol import replace_file

TOKEN = "123456789:" + "A" * 35


def rows(**ports: Any) -> list[dict[str, Any]]:
    return [{"id": bot, "settings": {"port": port} if port else {}} for bot, port in ports.items()]


def test_a_port_that_another_bot_has_is_refused_with_the_name_of_that_bot() -> None:
    with pytest.raises(Refused) as error:
        check_port_free("shop2", 8443, rows(shop=8443))
    assert str(error.value) == "port 8443 of 'shop2' is already the port of 'shop': choose another one"
    check_port_free("shop", 8443, rows(shop=8443, other=8444, none=0))
    check_port_free("shop", 0, [*rows(other=0), {"id": "odd", "settings": None}])


PROGRAM = """
import socket, sys
server = socket.create_server(("127.0.0.1", 0))
print(server.getsockname()[1], flush=True)
sys.stdin.read()
"""


@contextmanager
def listener(**environment: str) -> Iterator[tuple[int, int]]:
    """A process that listens: its port and pid."""
    with subprocess.Popen([sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                          env={**os.environ, **environment}) as process:  # fmt: skip
        assert process.stdout is not None
        yield int(process.stdout.readline()), process.pid
        process.kill()


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = find_home(str(tmp_path))
    made.bot("shop").state_dir.mkdir(parents=True)
    replace_file(made.bot("shop").settings("0" * 16), b"{}")  # whose processes may be the bot's: its owner's
    return made


def test_a_port_on_which_somebody_else_listens_is_refused_with_his_name(home: Home) -> None:
    with listener() as (port, pid):
        with pytest.raises(Refused, match=rf"^port {port} of 'shop' is in use by \S+ \(pid {pid}\): choose another"):
            check_port_unused(home, "shop", port)
        check_port_unused(home, "shop", 0)
    check_port_unused(home, "shop", port)


def test_a_bot_that_listens_on_its_own_port_is_no_stranger(home: Home) -> None:
    with listener(**{MARK: str(home.bot("shop").run_dir)}) as (port, _):
        check_port_unused(home, "shop", port)
        assert stranger(home, "other", port, listening())


def test_a_listener_that_the_kernel_does_not_name_is_somebody_all_the_same(home: Home) -> None:
    assert stranger(home, "shop", 80, {80: (None,)}) == "another user's process"
    assert stranger(home, "shop", 81, {80: (None,)}) == ""


def test_who_listens_is_seen_on_every_address() -> None:
    with socket.create_server(("127.0.0.7", 0)) as server:
        assert os.getpid() in listening()[server.getsockname()[1]]


@pytest.mark.parametrize(
    ("settings", "missing"),
    [({}, "--port"), ({"port": 8443}, "--webhook-url"), ({"port": 8443, "webhook_url": "https://b.example"}, "")],
)
def test_a_build_bot_that_receives_by_webhook_needs_a_port_and_an_address(
    settings: dict[str, Any], missing: str
) -> None:
    config = BotConfig("shop", True, "build", "shop:build", TOKEN, {}, {"receives": "webhook", **settings})
    if not missing:
        config.check()
        return
    with pytest.raises(BadValue, match=missing):
        config.check()
