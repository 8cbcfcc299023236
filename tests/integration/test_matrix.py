"""Every kind of bot in every kind of trouble, really provoked: the manager says what docs/health.md says."""

from __future__ import annotations

import contextlib
import json
import threading
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import pytest
from judged import Fleet, a_fleet
from matrix import POLLING, UNSEEN, WEBHOOK

from multibot_hooks import polling, webhook
from multibot_plugin.sandbox.client import Sandbox


@contextlib.contextmanager
def failing(fleet: Fleet, **fault: object) -> Iterator[None]:
    for bot in fleet.bots.values():
        fleet.sandbox.fault(bot.token, **fault)  # type: ignore[arg-type]
    try:
        yield
    finally:
        for bot in fleet.bots.values():
            fleet.sandbox.clear(bot.token)


@contextlib.contextmanager
def saying(fleet: Fleet, text: str) -> Iterator[None]:
    for bot in fleet.bots.values():
        fleet.sandbox.say(bot.token, text)
    yield


def revoke(fleet: Fleet) -> None:
    for bot in fleet.bots.values():
        fleet.sandbox.revoke(bot.token)


@contextlib.contextmanager
def revoked(fleet: Fleet) -> Iterator[None]:
    revoke(fleet)
    yield


@contextlib.contextmanager
def polled_elsewhere(fleet: Fleet) -> Iterator[None]:
    ended = threading.Event()

    def poll(url: str) -> None:
        while not ended.is_set():
            with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=10) as answer:
                json.load(answer)

    pollers = [
        threading.Thread(target=poll, args=(f"{fleet.sandbox.url}/bot{bot.token}/getUpdates?timeout=2",))
        for bot in fleet.bots.values()
    ]
    for poller in pollers:
        poller.start()
    try:
        yield
    finally:
        ended.set()
        for poller in pollers:
            poller.join()


# What passes, in the order in which it befalls one fleet, and then what ends it.
PASSING: dict[str, Callable[[Fleet], AbstractContextManager[None]]] = {
    "getUpdates hangs": lambda fleet: failing(fleet, hang=True),
    "connections are dropped": lambda fleet: failing(fleet, drop=True),
    "Telegram answers 502": lambda fleet: failing(fleet, status=502),
    "flood wait (429)": lambda fleet: failing(fleet, status=429, retry_after=5),
    "its token is revoked while it runs": revoked,
}
LASTING: dict[str, Callable[[Fleet], AbstractContextManager[None]]] = {
    "its event loop is blocked": lambda fleet: saying(fleet, "freeze"),
    "a handler is slow": lambda fleet: saying(fleet, "slow"),
    "a second poller elsewhere (409)": polled_elsewhere,
}
STARTING: dict[str, Callable[[Fleet], AbstractContextManager[None]]] = {
    "its token is revoked before it starts": revoked,
    "it crashes in a loop": lambda fleet: contextlib.nullcontext(),
}


@pytest.fixture(autouse=True)
def impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    """What no setting makes short."""
    monkeypatch.setattr(polling, "_THROTTLED_S", 2.0)
    monkeypatch.setattr(webhook, "_WAITING_PROBES", 4)


# What else may be said on the way to a word: nobody has looked yet, it is coming up; and by trouble:
ON_THE_WAY = ("None", "unknown")
ON_THE_WAY_TO = {
    # Its update waits, and some do not poll either; which is told first is by chance with windows as short as these.
    "its event loop is blocked": ("deaf", "slow"),
    # It takes two answers, and a library may wait between them for longer than a bot of this fleet may be silent.
    "a second poller elsewhere (409)": ("deaf",),
}
QUIET = {"healthy", UNSEEN}  # words that a bot may have at any moment: they have to stay
_STAYS = 4  # looks
_WRONG = 3  # looks in a row at which a word is one that the manager says, and not that of a host with much else to do


async def said(fleet: Fleet, trouble: str, before: str = "none") -> None:
    """Look until the manager says of every bot what the table says, and on the way nothing but what it said before.

    The windows of this fleet are of seconds: anything else may be said for a moment, but does not last.
    """
    expected, usual = fleet.table.expected(trouble), fleet.table.expected(before)
    passing = (*ON_THE_WAY, *ON_THE_WAY_TO.get(trouble, ()), *ON_THE_WAY_TO.get(before, ()))
    right = dict.fromkeys(expected, 0)  # looks in a row
    heard = {name: list[str]() for name in expected}

    def settled() -> bool:
        for name, word in fleet.words.items():
            heard[name].append(word)
            lasts = heard[name][-_WRONG:] == [word] * _WRONG
            assert not lasts or word in [*expected[name], *usual[name], *passing], f"{trouble}: {word!r} of {name}"
            right[name] = right[name] + 1 if word in expected[name] else 0
        return all(looks >= (_STAYS if QUIET & {*expected[name]} else 1) for name, looks in right.items())

    if not await fleet.until(settled):
        wrong = {name: word for name, word in fleet.words.items() if word not in expected[name]}
        logs = "\n".join(f"{name}: {fleet.bots[name].log[-600:]}" for name in wrong)
        pytest.fail(f"{trouble}: {wrong}\n{logs}")


async def came_up(fleet: Fleet) -> None:
    """Launch all and wait until each has answered a user and was seen well; until then all may be said of it."""
    fleet.launch()
    well, counters = fleet.table.expected("none"), fleet.sandbox.counters

    def up() -> bool:
        answered = all("sendmessage" in counters(bot.token).calls for bot in fleet.bots.values())
        return answered and all(fleet.words.get(name) in well[name] for name in fleet.bots)

    assert await fleet.until(up), fleet.words


@pytest.mark.timeout(400)
async def test_trouble_that_passes_is_told_and_is_over(sandbox: Sandbox) -> None:
    async with a_fleet(sandbox, POLLING) as fleet:
        await came_up(fleet)
        before = "none"
        for trouble, provoked in PASSING.items():
            await said(fleet, "none", before)
            with provoked(fleet):
                await said(fleet, trouble)
            before = trouble


@pytest.mark.parametrize("trouble", LASTING)
async def test_trouble_that_lasts_is_told(sandbox: Sandbox, trouble: str) -> None:
    async with a_fleet(sandbox, POLLING) as fleet:
        await came_up(fleet)
        with LASTING[trouble](fleet):
            await said(fleet, trouble)


@pytest.mark.parametrize("trouble", STARTING)
async def test_a_start_that_fails_is_told(sandbox: Sandbox, trouble: str) -> None:
    env = {"CRASH": "1"} if "crash" in trouble else {}
    async with a_fleet(sandbox, POLLING, **env) as fleet:
        with STARTING[trouble](fleet):
            fleet.launch()
            await said(fleet, trouble)


def misguided(fleet: Fleet, method: str, **parameters: str) -> None:
    """Call a method with each bot's token, as somebody else who has it would."""
    for bot in fleet.bots.values():
        known = {k: v.format(url=fleet.sandbox.counters(bot.token).webhook) for k, v in parameters.items()}
        data = urllib.parse.urlencode(known).encode()
        with urllib.request.urlopen(f"{fleet.sandbox.url}/bot{bot.token}/{method}", data, timeout=10) as answer:
            assert json.load(answer)["result"] is True


# Each is worse than the one before, so that its word is the one that is shown.
HOOKED: dict[str, Callable[[Fleet], None]] = {
    "none": lambda fleet: None,
    "it refuses what is delivered": lambda fleet: misguided(fleet, "setWebhook", url="{url}", secret_token="forgot"),
    "its webhook is deleted elsewhere": lambda fleet: misguided(fleet, "deleteWebhook"),
    "its token is revoked while it runs": revoke,
}


@pytest.mark.timeout(400)
async def test_trouble_with_webhooks_is_told(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhook, "_WAITING_PROBES", 1_000)  # who refuses is deaf in the end: not while this looks
    async with a_fleet(sandbox, WEBHOOK, webhook=True) as fleet:
        await came_up(fleet)
        before = "none"
        for trouble, provoke in HOOKED.items():
            provoke(fleet)
            await said(fleet, trouble, before)
            before = trouble


@pytest.mark.parametrize("trouble", sorted(LASTING.keys() & WEBHOOK.words.keys()))
async def test_what_a_webhook_bot_does_not_handle_is_told(sandbox: Sandbox, trouble: str) -> None:
    async with a_fleet(sandbox, WEBHOOK, webhook=True) as fleet:
        await came_up(fleet)
        with LASTING[trouble](fleet):
            await said(fleet, trouble)


def test_every_trouble_of_the_tables_is_provoked() -> None:
    assert {"none", *PASSING, *LASTING, *STARTING} == set(POLLING.words)
    assert set(HOOKED) | (LASTING.keys() & WEBHOOK.words.keys()) == set(WEBHOOK.words)
