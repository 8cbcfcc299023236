"""What the monitor asks Telegram about bots whose polls are not seen: real files, a real Bot API server."""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import urllib.request
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from sandboxes import new_token, threaded
from watched import Clock, heartbeat, observation, until

from multibot_hooks import polling
from multibot_plugin.bots.config import BotConfig, deploy
from multibot_plugin.bots.files import read_key, write_bot, write_key
from multibot_plugin.health import probes, reach
from multibot_plugin.health.probes import Prober
from multibot_plugin.health.reach import Reach
from multibot_plugin.health.recovery import Outage
from multibot_plugin.health.rules import Fleet, Row
from multibot_plugin.health.states import Observation, WebhookInfo
from multibot_plugin.home import Home, find_home
from multibot_plugin.sandbox.client import Sandbox
from multibot_plugin.settings import load

SILENT = heartbeat(polling_seen=False, poll_start_mono=None, poll_success_mono=None)


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with threaded() as made:
        yield made


class Place:
    """A home with bots in it, and a prober that is told of them."""

    def __init__(self, top: Path, sandbox: Sandbox) -> None:
        self.home, self.sandbox, self.clock = find_home(str(top)), sandbox, Clock()
        for path in (self.home.state, self.home.run, self.home.log):
            path.mkdir(parents=True)
        self.prober = Prober(self.home, 60.0, self.clock)
        self.rows: dict[str, Row] = {}
        self.tokens: dict[str, str] = {}

    def bot(self, bot: str = "dice", *, env: dict[str, str] | None = None, **settings: Any) -> Observation:
        """Write the files of a command bot as ``apply`` does, and return what is seen of it."""
        token = self.tokens[bot] = new_token()
        self.sandbox.register(token)
        config = BotConfig(bot, True, "command", "sleep 600", token, env or {},
                           {"bot_api_url": self.sandbox.url, **settings})  # fmt: skip
        key = read_key(self.home)
        write_key(self.home, key)
        made = deploy(config, load(self.home.toml, environ={}), key)
        write_bot(self.home, made, (os.geteuid(), os.getegid()))
        self.rows[bot] = Row(bot, "RUNNING", 1, 1.0, True, 1.0, 0.0, 0, digest=made.digest)
        return observation(made.live, bot=bot, launch="command", heartbeat=SILENT)

    async def ask(self, *observations: Observation, after_s: float = 60.0) -> list[WebhookInfo | None]:
        """Let the prober look at the bots ``after_s`` later; return what it knows then."""
        self.clock.forward(after_s)
        self.prober.watch(observations, Fleet(True, 1, tuple(self.rows.values())))
        await until(lambda: not self.prober._asking)
        return [self.prober.known(o).webhook for o in observations]

    async def info(self, seen: Observation) -> WebhookInfo:
        (info,) = await self.ask(seen)
        assert info is not None
        return info


@pytest.fixture
async def place(tmp_path: Path, sandbox: Sandbox) -> AsyncIterator[Place]:
    made = Place(tmp_path, sandbox)
    yield made
    await made.prober.close()


def asked(place: Place, bot: str) -> int:
    return place.sandbox.counters(place.tokens[bot]).calls.get("getwebhookinfo", 0)


async def test_each_bot_is_asked_about_once_in_an_interval_and_not_all_at_the_same_moment(place: Place) -> None:
    bots = [place.bot(f"bot-{n}") for n in range(12)]
    assert await place.ask(*bots, after_s=0) == [None] * 12
    half = sum(info is not None for info in await place.ask(*bots, after_s=30))
    assert 0 < half < 12
    assert None not in await place.ask(*bots, after_s=30)
    assert {asked(place, b.bot) for b in bots} == {1}


async def test_updates_that_wait_are_counted_until_they_become_fewer(place: Place) -> None:
    seen = place.bot()
    await place.ask(seen, after_s=0)
    token = place.tokens["dice"]
    assert ((info := await place.info(seen)).pending, info.waiting_probes, info.origin) == (0, 0, "")
    place.sandbox.say(token, "one")
    begun = await place.info(seen)
    place.sandbox.say(token, "two")
    info = await place.info(seen)
    assert (info.pending, info.waiting_probes, info.waiting_since_mono) == (2, 2, begun.asked_mono)
    assert info.asked_mono == place.clock.mono


async def test_a_rejected_token_is_told(place: Place) -> None:
    seen = place.bot()
    await place.ask(seen, after_s=0)
    place.sandbox.revoke(place.tokens["dice"])
    assert (await place.info(seen)).code == 401
    (found,) = polling.multibot_check(place.prober.known(seen))
    assert found.text == "unauthorised: Telegram rejects its token (401)"


async def test_of_a_webhook_only_scheme_and_host_are_kept(place: Place) -> None:
    seen = place.bot(receives="webhook", webhook_url="https://127.0.0.1:9/hook")
    await place.ask(seen, after_s=0)
    token = place.tokens["dice"]
    set_webhook(place, token, f"https://127.0.0.1:9/{token}")
    info = await place.info(seen)
    assert (info.origin, info.as_configured) == ("https://127.0.0.1:9", False)
    assert token.partition(":")[2] not in repr(info)
    set_webhook(place, token, "https://127.0.0.1:9/hook")
    place.sandbox.say(token, "hi")
    await until(lambda: webhook_error(place, token))
    info = await place.info(seen)
    assert (info.as_configured, info.pending, info.error) == (True, 1, "Connection refused")


def set_webhook(place: Place, token: str, url: str) -> None:
    call(place, token, f"setWebhook?url={url}")


def webhook_error(place: Place, token: str) -> Any:
    return call(place, token, "getWebhookInfo").get("last_error_message")


def call(place: Place, token: str, method: str) -> Any:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"{place.sandbox.url}/bot{token}/{method}", timeout=10) as answer:
        return json.load(answer)["result"]


async def test_a_server_that_is_away_is_one_line_in_the_log_and_no_finding(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    bots = [place.bot(f"bot-{n}", bot_api_url="http://127.0.0.1:9") for n in range(5)]
    await place.ask(*bots, after_s=0)
    with caplog.at_level(logging.WARNING, "multibot.monitor"):
        assert await place.ask(*bots) == [None] * 5
        assert await place.ask(*bots) == [None] * 5
    (line,) = caplog.messages
    assert "http://127.0.0.1:9 does not answer (Connection refused)" in line
    assert not any(token.partition(":")[2] in line for token in place.tokens.values())


async def test_a_question_that_hangs_keeps_no_other_bot_waiting_and_is_not_asked_again(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    hung, others = place.bot("hung"), [place.bot(f"bot-{n}") for n in range(3)]
    back, asked_about, look = threading.Event(), list[str](), probes.look

    def slow(home: Home, bot: str, digest: str, now: float) -> WebhookInfo:
        asked_about.append(bot)
        if bot == "hung":
            back.wait(60)
        return look(home, bot, digest, now)

    monkeypatch.setattr(probes, "look", slow)
    monkeypatch.setattr(probes, "AT_ONCE", 1)
    monkeypatch.setattr(probes, "DEADLINE_S", 1.0)
    try:
        await place.ask(hung, *others, after_s=0)
        for _ in range(2):
            await place.ask(hung, *others)
        assert sorted(asked_about) == sorted(["hung", *[o.bot for o in others] * 2])
    finally:
        back.set()
    await until(lambda: not place.prober._hanging["hung"].busy)
    assert None not in await place.ask(hung, *others)


async def test_settings_that_the_bot_has_rewritten_are_not_followed(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    seen = place.bot()
    path = place.home.bot("dice").settings(place.rows["dice"].digest)
    path.chmod(0o600)
    path.write_text(path.read_text().replace(place.sandbox.url, f"{place.sandbox.url}/elsewhere"))
    await place.ask(seen, after_s=0)
    assert await place.ask(seen) == [None]
    assert caplog.messages == ["Telegram was asked about dice: its settings are not those that were rendered"]


async def test_a_bot_that_polls_or_waits_is_not_asked_about(place: Place) -> None:
    seen = place.bot()
    for changes in ({"launch": "script", "heartbeat": heartbeat()}, {"state": "backing-off"}, {"heartbeat": None}):
        await place.ask(observation(**{"bot": "dice", "launch": "command", **changes}), after_s=0)
        assert await place.ask(observation(**{"bot": "dice", "launch": "command", **changes})) == [None]
    assert asked(place, "dice") == 0
    await place.ask(seen, after_s=0)
    assert (await place.info(seen)).code == 200
    newer = observation(bot="dice", launch="command", heartbeat=SILENT, pid=5)
    assert place.prober.known(newer).webhook is None


async def test_without_an_interval_nothing_is_asked(place: Place) -> None:
    seen, place.prober = place.bot(), Prober(place.home, 0.0, place.clock)
    await place.ask(seen, after_s=0)
    assert await place.ask(seen) == [None]


async def test_the_bots_own_proxy_is_used(place: Place) -> None:
    seen = place.bot(env={"http_proxy": place.sandbox.url}, bot_api_url="http://bot-api.invalid")
    await place.ask(seen, after_s=0)
    assert (await place.info(seen)).code == 200
    aside = place.bot("two", env={"http_proxy": "http://127.0.0.1:9", "NO_PROXY": "127.0.0.1"})
    await place.ask(aside, after_s=0)
    assert (await place.info(aside)).code == 200


async def test_a_server_answers_whatever_it_says_and_one_that_is_away_or_hangs_does_not(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reach, "DEADLINE_S", 0.5)
    asking = Reach(place.home, place.clock)
    with socket.create_server(("127.0.0.1", 0)) as hanging:
        silent = f"http://127.0.0.1:{hanging.getsockname()[1]}"
        place.bot("good")  # its root is a 404
        place.bot("proxied", bot_api_url="http://bot-api.invalid", env={"http_proxy": place.sandbox.url})
        place.bot("unknown")
        for bot, url in (("closed", "http://127.0.0.1:9"), ("closed-2", "http://127.0.0.1:9"), ("hangs", silent)):
            place.bot(bot, bot_api_url=url)
        digests = {row.id: row.digest for row in place.rows.values()} | {"unknown": "0" * 16}
        away = {"closed": "http://127.0.0.1:9", "closed-2": "http://127.0.0.1:9", "hangs": silent}
        expected = {bot: Outage(server) for bot, server in away.items()}
        while (found := await asking.away(digests)) != expected:  # nobody waits for one that hangs
            assert found["hangs"] == Outage(silent, None)
            assert "good" not in found or found["good"].answers is None
        hanging.settimeout(5)
        connection, _ = hanging.accept()
        asked = connection.recv(4096)
        connection.close()
        assert asked.startswith(b"GET / HTTP/1.1")  # no token
    await asking.close()


async def test_a_server_that_is_back_is_left_a_moment_in_which_bots_hear_it_by_themselves(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reach, "_PATIENCE_S", 30.0)
    asking = Reach(place.home, place.clock)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    place.bot("one", bot_api_url=f"http://127.0.0.1:{port}", env={})
    digests = {"one": place.rows["one"].digest}
    assert await asking.away(digests)
    for _ in range(2):  # nobody is deaf meanwhile, and it is away all the same
        place.clock.forward(reach.AGAIN_S - 1)
        assert await asking.away({}) == {}
        assert asking.silent
    with threaded(port):
        place.clock.forward(reach.AGAIN_S - 1)
        assert await asking.away(digests) == {"one": Outage(f"http://127.0.0.1:{port}", answers=True)}
        assert not asking.silent
        place.clock.forward(1)
        assert await asking.away(digests) == {}
    # An hour later: what it answered then says nothing of now.
    place.clock.forward(3600)
    monkeypatch.setattr(reach, "_PATIENCE_S", 0.0)
    assert await asking.away(digests) == {"one": Outage(f"http://127.0.0.1:{port}", answers=None)}
    await asking.close()
