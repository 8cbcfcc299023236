"""The Telegram channel against the local Bot API server, with its failures."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sandboxes import CHAT, Place, new_token, place
from watched import alert

from multibot_hooks import log, telegram
from multibot_plugin.alerts.format import LONGEST, cut, one_line
from multibot_plugin.hookspecs import MonitorInfo
from multibot_plugin.sandbox.model import FaultKind


@pytest.fixture
async def there() -> AsyncIterator[Place]:
    async with place() as made:
        yield made


class Channel:
    """The plugin, configured; called in a thread, as the monitor does."""

    def __init__(self, server: str, file: Path, chat: str = str(CHAT)) -> None:
        self.file = file
        settings = {"alerts.telegram.token_file": str(file), "alerts.telegram.chat_id": chat, "bot_api_url": server,
                    "monitor.plugin_timeout_s": 2.0}  # fmt: skip
        telegram.multibot_configure(MonitorInfo("h", settings, {}))

    async def send(self, text: str = "✖ greeter is deaf.") -> bool | None:
        return await asyncio.to_thread(telegram.multibot_send_alert, alert(text=text))

    async def refused(self, text: str = "x") -> str:
        """Return why it is not sent; the exception and its causes hold no token."""
        with pytest.raises(telegram.NotSent) as caught:
            await self.send(text)
        assert "AAAA" not in repr(caught.value)
        assert caught.value.__cause__ is None
        assert caught.value.__suppress_context__ or caught.value.__context__ is None
        return str(caught.value)


@pytest.fixture
def channel(there: Place, tmp_path: Path) -> Channel:
    made = Channel(there.url, tmp_path / "token")
    made.file.write_text(f"{there.token}\n")
    return made


def sent(there: Place) -> list[str]:
    return [e.text for e in there.world.entries if e.by == "bot"]


async def test_an_alert_arrives_as_it_is(there: Place, channel: Channel) -> None:
    assert await channel.send("✖ greeter <b>is</b> _deaf_ & *more*\nhost · since 14:02:58") is True
    assert sent(there) == ["✖ greeter <b>is</b> _deaf_ & *more*\nhost · since 14:02:58"]
    assert telegram.multibot_channel() == f"Telegram (chat {CHAT})"


async def test_the_longest_message_that_we_make_is_taken(there: Place, channel: Channel) -> None:
    text = cut(one_line("🤖é" * 3000), LONGEST)
    assert await channel.send(text) is True
    assert sent(there) == [text]


async def test_without_file_or_chat_it_is_not_configured(there: Place, tmp_path: Path) -> None:
    Channel(there.url, tmp_path / "token", chat="")
    assert telegram.multibot_channel() is None
    assert telegram.multibot_send_alert(alert()) is None


async def test_a_changed_file_counts_at_the_next_message(there: Place, channel: Channel) -> None:
    await channel.send("one")
    there.world.revoke(there.bot)
    assert "rejects the token in" in await channel.refused()
    fresh = new_token()
    there.world.register(fresh)
    channel.file.write_text(fresh)
    assert await channel.send("two") is True


@pytest.mark.parametrize("content", [None, "", "hello", "123456789:short", b"\xff\xfe"])
async def test_a_file_without_a_token_is_named_and_not_shown(channel: Channel, content: Any) -> None:
    channel.file.unlink()
    if isinstance(content, bytes):
        channel.file.write_bytes(content)
    elif content is not None:
        channel.file.write_text(content)
    why = await channel.refused()
    assert str(channel.file) in why
    assert "short" not in why


async def test_a_flood_is_waited_for_without_asking(
    there: Place, channel: Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    there.fault(429, "sendmessage", times=1)
    why = await channel.refused()
    assert "asks for a pause" in why
    assert "s are left" in await channel.refused()
    assert sent(there) == []
    monkeypatch.setattr(telegram._channel, "quiet_until", 0.0)
    assert await channel.send("later") is True


@pytest.mark.parametrize(
    ("fault", "word"), [("hang", "cannot be reached"), ("drop", "cannot be reached"), (502, "answers 502")]
)
async def test_a_server_that_fails_is_a_reason_without_the_url(
    there: Place, channel: Channel, fault: FaultKind | int, word: str
) -> None:
    telegram._channel.timeout_s = 0.2
    there.fault(fault, "sendmessage", times=1)
    assert word in await channel.refused()
    assert await channel.send("again") is True


async def test_what_telegram_says_of_a_bad_message_is_told(channel: Channel) -> None:
    assert await channel.refused("") == "Telegram answers 400: Bad Request: message text is empty"


async def test_a_chat_that_does_not_know_the_bot_comes_with_what_to_do(there: Place, tmp_path: Path) -> None:
    nowhere = Channel(there.url, tmp_path / "token", "123456789")
    nowhere.file.write_text(there.token)
    why = "Telegram answers 400: Bad Request: chat not found: write /start to your alerts bot in this chat"
    assert await nowhere.refused() == why


async def test_a_server_that_is_not_there_is_a_reason(there: Place, channel: Channel) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    telegram._channel.server = f"http://127.0.0.1:{port}"
    assert await channel.refused() == "Telegram cannot be reached (ConnectError)"
    telegram._channel.server = "http://[bad"
    assert (await channel.refused()).startswith("Telegram cannot be reached")


async def test_no_library_logs_the_token(channel: Channel, caplog: pytest.LogCaptureFixture) -> None:
    caplog.handler.setLevel(logging.DEBUG)
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.DEBUG)
    try:
        await channel.send()
    finally:
        root.setLevel(before)
    assert "AAAA" not in caplog.text


def test_the_log_channel_writes_one_line_to_stderr_and_is_not_counted(capsys: pytest.CaptureFixture[str]) -> None:
    assert log.multibot_send_alert(alert(text="✖ greeter is deaf.\nhost · since 1")) is True
    out, err = capsys.readouterr()
    assert out == ""
    assert err.endswith("ALERT opened ✖ greeter is deaf. | host · since 1\n")
    assert log.multibot_channel() is None  # type: ignore[func-returns-value]
