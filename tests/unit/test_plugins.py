from __future__ import annotations

import logging
import threading
from collections.abc import AsyncIterator, Callable
from importlib.metadata import EntryPoint
from types import SimpleNamespace
from typing import Any

import pytest
from watched import TOKEN, alert, finding, observation, point, until

from multibot_plugin.hookspecs import Alert, Finding, Health, Level, MonitorInfo, Observation, hookimpl
from multibot_plugin.plugins import FAILURES_ALLOWED, Answer, Plugins, SendFailed, describe

INFO = MonitorInfo("host", {}, {})
BOTS = [observation(), observation(bot="echo")]


class Loader:
    """Loads plugins, and lets their threads end with the test."""

    def __init__(self) -> None:
        self.loaded: list[Plugins] = []
        self.release = threading.Event()

    async def __call__(self, *points: EntryPoint, timeout_s: float = 20.0) -> Plugins:
        plugins = await Plugins.load(lambda name: MonitorInfo("host", {}, {"name": name}), timeout_s, points)
        self.loaded.append(plugins)
        return plugins


@pytest.fixture
async def load() -> AsyncIterator[Loader]:
    loader = Loader()
    yield loader
    loader.release.set()
    for plugins in loader.loaded:
        plugins.close()


def checker(answer: Callable[[Observation], Any]) -> Any:
    """A plugin whose check is ``answer``."""

    def multibot_check(observation: Observation) -> Any:
        return answer(observation)

    return SimpleNamespace(multibot_check=hookimpl(multibot_check))


def sender(send: Callable[[Alert], Any]) -> Any:
    def multibot_send_alert(alert: Alert) -> Any:
        return send(alert)

    return SimpleNamespace(multibot_send_alert=hookimpl(multibot_send_alert))


GOOD = checker(lambda o: [finding(bot=o.bot)])


def failing(o: Observation) -> Any:
    raise ValueError(f"no {TOKEN}")


def of(answers: list[Answer], plugin: str) -> list[tuple[Finding, ...] | None]:
    return [a.findings for a in answers if a.plugin == plugin]


async def test_without_plugins_nothing_is_found_and_nobody_told(load: Loader) -> None:
    plugins = await load()
    assert await plugins.check(BOTS) == []
    assert plugins.senders() == ()
    assert await plugins.channels() == {}
    assert plugins.status() == ()


async def test_every_plugin_is_asked_about_every_bot(load: Loader) -> None:
    plugins = await load(
        point("good", GOOD), point("none", checker(lambda o: None)), point("empty", checker(lambda o: ()))
    )
    answers = await plugins.check(BOTS)
    assert of(answers, "good") == [(finding(),), (finding(bot="echo"),)]
    assert of(answers, "none") == of(answers, "empty") == [(), ()]
    assert plugins.watching() == {"good", "none", "empty"}


async def test_a_plugin_that_cannot_be_imported_is_reported_and_the_others_work(load: Loader) -> None:
    plugins = await load(
        point("broken", ImportError(f"no module x {TOKEN}")), point("leaves", SystemExit(3)), point("good", GOOD)
    )
    assert len(await plugins.check(BOTS)) == 2
    broken, good, leaves = plugins.status()
    assert (broken.disabled, good.disabled, leaves.disabled) == (True, False, True)
    assert broken.text == "cannot be loaded: ImportError: no module x 123456789:<redacted>"
    assert "SystemExit: 3" in leaves.text


def misspelt() -> Any:
    def multibot_chekc(observation: Observation) -> None: ...

    return SimpleNamespace(multibot_chekc=hookimpl(multibot_chekc))


def wrong_argument() -> Any:
    def multibot_check(observation: Observation) -> None: ...
    def multibot_send_alert(message: str) -> None: ...

    return SimpleNamespace(multibot_check=hookimpl(multibot_check), multibot_send_alert=hookimpl(multibot_send_alert))


@pytest.mark.parametrize(("plugin", "word"), [(misspelt(), "multibot_chekc"), (wrong_argument(), "message")])
async def test_a_hook_that_does_not_exist_or_wants_more_is_reported_at_the_start(
    load: Loader, plugin: Any, word: str
) -> None:
    plugins = await load(point("bad", plugin), point("good", GOOD))
    bad, _ = plugins.status()
    assert bad.disabled
    assert word in bad.text
    assert {a.plugin for a in await plugins.check(BOTS)} == {"good"}


async def test_two_plugins_of_one_name_the_second_is_reported(load: Loader) -> None:
    plugins = await load(point("same", GOOD), point("same", checker(failing)))
    first, second = plugins.status()
    assert not first.disabled
    assert second.disabled
    assert second.text == "another plugin has the same name"


async def test_configure_is_called_with_what_the_plugin_may_know_and_before_anything_else(load: Loader) -> None:
    seen: list[Any] = []

    def multibot_configure(info: MonitorInfo) -> None:
        seen.append(info.own["name"])

    plugin = SimpleNamespace(multibot_configure=hookimpl(multibot_configure), multibot_check=GOOD.multibot_check)
    plugins = await load(point("mine", plugin))
    assert seen == ["mine"]
    assert len(await plugins.check(BOTS)) == 2


async def test_a_plugin_that_cannot_be_configured_is_disabled(load: Loader) -> None:
    def multibot_configure(info: MonitorInfo) -> None:
        raise KeyError("url")

    plugins = await load(
        point("bad", SimpleNamespace(multibot_configure=hookimpl(multibot_configure))), point("good", GOOD)
    )
    assert [p.disabled for p in plugins.status()] == [True, False]
    assert "cannot be configured: KeyError: 'url'" in plugins.status()[0].text


async def test_an_exception_on_one_bot_costs_that_answer_only(load: Loader) -> None:
    plugins = await load(point("picky", checker(lambda o: failing(o) if o.bot == "echo" else [finding(bot=o.bot)])))
    assert of(await plugins.check(BOTS), "picky") == [(finding(),), None]
    (status,) = plugins.status()
    assert (status.failures, status.disabled) == (1, False)
    assert status.text == "checking echo: ValueError: no 123456789:<redacted>"


async def test_five_failures_in_a_row_disable_and_the_others_go_on(load: Loader) -> None:
    plugins = await load(point("bad", checker(failing)), point("good", GOOD))
    for number in range(1, FAILURES_ALLOWED):
        await plugins.check(BOTS)
        assert (plugins.status()[0].failures, plugins.status()[0].disabled) == (number, False)
    answers = await plugins.check(BOTS)
    assert of(answers, "bad") == [None, None]
    assert plugins.status()[0].disabled
    assert "5 failures in a row" in plugins.status()[0].text
    assert of(await plugins.check(BOTS), "bad") == []
    assert plugins.watching() == {"good"}
    assert len(of(await plugins.check(BOTS), "good")) == 2


async def test_a_success_in_between_begins_the_count_anew(load: Loader) -> None:
    turns = iter([True, True, True, True, False, True, True, True, True])
    plugins = await load(point("moody", checker(lambda o: failing(o) if next(turns) else [])))
    for _ in range(9):
        await plugins.check(BOTS[:1])
    (status,) = plugins.status()
    assert (status.failures, status.disabled) == (4, False)


async def test_a_check_that_hangs_is_not_called_again_and_at_last_disabled_without_a_wait(load: Loader) -> None:
    calls: list[str] = []

    def hang(o: Observation) -> None:
        calls.append(o.bot)
        load.release.wait(60)

    plugins = await load(point("hangs", checker(hang)), point("good", GOOD), timeout_s=0.05)
    for _ in range(FAILURES_ALLOWED):
        answers = await plugins.check(BOTS)
        assert len(of(answers, "good")) == 2
        assert of(answers, "hangs") == [None, None]
    assert calls == ["greeter"]
    assert plugins.status()[1].disabled


async def test_a_check_that_is_slow_is_reported_and_used_again_when_it_is_back(load: Loader) -> None:
    slow = True

    def answer(o: Observation) -> list[Finding]:
        if slow:
            load.release.wait(60)
        return [finding(bot=o.bot)]

    plugins = await load(point("slow", checker(answer)), timeout_s=0.05)
    assert of(await plugins.check(BOTS), "slow") == [None, None]
    assert plugins.status()[0].text == "checking: no answer within 0.05 s"
    slow = False
    load.release.set()
    worker = plugins._plugins["slow"].worker
    await until(lambda: not worker._busy)
    assert of(await plugins.check(BOTS), "slow") == [(finding(),), (finding(bot="echo"),)]
    assert plugins.status()[0].failures == 0


def coroutine(o: Observation) -> Any:
    async def check() -> list[Finding]:
        return []

    return check()


@pytest.mark.parametrize(
    ("answer", "word"),
    [
        (lambda o: 3, "not a list of findings"),
        (lambda o: "ab", "not a list of findings"),
        (lambda o: [3], "not a Finding"),
        (lambda o: [finding(bot="other")], "answered about 'other'"),
        (lambda o: [finding(check="No Good")], "is not a word"),
        (lambda o: [finding(check=None)], "is not a word"),
        (lambda o: [finding(for_s=-1)], "for_s"),
        (lambda o: [finding(for_s=float("nan"))], "for_s"),
        (lambda o: [finding(for_s="soon")], "soon"),
        (lambda o: [finding(level="loud")], "loud"),
        (lambda o: [finding(health="fine")], "fine"),
        (coroutine, "hooks are synchronous"),
        (lambda o: exec("raise SystemExit(1)"), "SystemExit"),
    ],
)
async def test_an_answer_that_is_none_is_a_failure(
    load: Loader, answer: Callable[[Observation], Any], word: str
) -> None:
    plugins = await load(point("odd", checker(answer)))
    assert of(await plugins.check(BOTS[:1]), "odd") == [None]
    assert word in plugins.status()[0].text


async def test_a_findings_words_are_made_harmless_and_its_values_ours(load: Loader) -> None:
    hostile = finding(text=f"\x1b[31m two\nlines {TOKEN}", level="critical", health="deaf", for_s=1, restart=1)
    plugins = await load(point("odd", checker(lambda o: [hostile])))
    ((found,),) = of(await plugins.check(BOTS[:1]), "odd")  # type: ignore[misc]
    assert found.text == "[31m two lines 123456789:<redacted>"
    assert found.level is Level.CRITICAL
    assert found.health is Health.DEAF
    assert found.restart is True
    plugins = await load(point("mute", checker(lambda o: [finding(text=" \n")])))
    ((found,),) = of(await plugins.check(BOTS[:1]), "mute")  # type: ignore[misc]
    assert found.text == "deaf"


async def test_sending_says_sent_not_mine_or_failed(load: Loader) -> None:
    plugins = await load(
        point("yes", sender(lambda a: True)), point("no", sender(lambda a: None)), point("odd", sender(lambda a: "ok")),
        point("down", sender(failing)), point("late", sender(coroutine)), point("check", GOOD),
    )  # fmt: skip
    assert await plugins.send("yes", alert()) is True
    assert await plugins.send("no", alert()) is None
    for name, word in [("odd", "'ok' instead of True"), ("down", "ValueError: no 123456789:<redacted>"),
                       ("late", "synchronous"), ("check", "not there"), ("gone", "not there")]:  # fmt: skip
        with pytest.raises(SendFailed, match=word):
            await plugins.send(name, alert())
    assert plugins.senders() == ("down", "late", "no", "odd", "yes")


async def test_a_channels_own_exception_speaks_for_itself(load: Loader) -> None:
    class NotSentError(Exception):
        pass

    def refused(alert: Alert) -> bool:
        raise NotSentError(f"chat not found {TOKEN}")

    plugins = await load(point("chat", sender(refused)))
    with pytest.raises(SendFailed, match=r"^chat not found 123456789:<redacted>$"):
        await plugins.send("chat", alert())


async def test_a_channel_that_fails_or_hangs_for_hours_is_never_disabled(load: Loader) -> None:
    plugins = await load(
        point("down", sender(failing)), point("hangs", sender(lambda a: load.release.wait(60))), timeout_s=0.05
    )
    for _ in range(3 * FAILURES_ALLOWED):
        for name in ("down", "hangs"):
            with pytest.raises(SendFailed):
                await plugins.send(name, alert())
    down, hangs = plugins.status()
    assert (down.disabled, hangs.disabled) == (False, False)
    assert plugins.senders() == ("down", "hangs")


async def test_the_alerts_of_a_plugin_that_is_disabled_wait_and_it_is_said_why(load: Loader) -> None:
    broken = SimpleNamespace(
        multibot_check=checker(lambda o: 1 / 0).multibot_check, multibot_send_alert=sender(bool).multibot_send_alert
    )
    plugins = await load(point("both", broken))
    for _ in range(FAILURES_ALLOWED):
        await plugins.check(BOTS)
    assert plugins.senders() == ("both",)
    with pytest.raises(SendFailed, match="the plugin is disabled: 5 failures in a row"):
        await plugins.send("both", alert())


async def test_channels_say_where_alerts_go_and_only_configured_ones_are_shown(load: Loader) -> None:
    def channel(where: Callable[[], Any]) -> Any:
        def multibot_channel() -> Any:
            return where()

        plain = sender(lambda a: True)
        return SimpleNamespace(
            multibot_channel=hookimpl(multibot_channel), multibot_send_alert=plain.multibot_send_alert
        )

    plugins = await load(
        point("a", channel(lambda: "Telegram (ops)")), point("b", channel(lambda: None)), point("plain", sender(bool)),
        point("c", channel(lambda: {}["no"])),
    )  # fmt: skip
    assert await plugins.channels() == {"a": "Telegram (ops)", "c": "c", "plain": "plain"}
    assert {p.name: p.failures for p in plugins.status()} == {"a": 0, "b": 0, "c": 1, "plain": 0}


async def test_a_plugin_cannot_change_what_the_others_see(load: Loader) -> None:
    def tamper(o: Observation) -> None:
        o.bot = "other"  # type: ignore[misc]

    plugins = await load(point("a", checker(tamper)), point("good", GOOD))
    answers = await plugins.check(BOTS)
    assert of(answers, "a") == [None, None]
    assert of(answers, "good") == [(finding(),), (finding(bot="echo"),)]


async def test_the_same_failure_is_logged_once_with_its_traceback(
    load: Loader, caplog: pytest.LogCaptureFixture
) -> None:
    plugins = await load(point("bad", checker(failing)))
    with caplog.at_level(logging.ERROR, "multibot.plugins"):
        for _ in range(FAILURES_ALLOWED + 2):
            await plugins.check(BOTS)
    first, disabled = caplog.records
    assert first.exc_info is not None
    assert "failed" in first.getMessage()
    assert "is disabled" in disabled.getMessage()


def test_an_exception_is_described_in_one_line_without_secrets() -> None:
    assert describe(ValueError(f"a\nb {TOKEN}")) == "ValueError: a b 123456789:<redacted>"
    assert describe(TimeoutError()) == "TimeoutError"


async def test_our_own_plugins_are_found_by_entry_point_like_a_strangers(load: Loader) -> None:
    settings = {"alerts.telegram.token_file": "", "alerts.telegram.chat_id": "", "bot_api_url": "https://x",
                "monitor.plugin_timeout_s": 10.0}  # fmt: skip
    plugins = await Plugins.load(lambda name: MonitorInfo("host", settings, {}), 20)
    load.loaded.append(plugins)
    assert {"alive", "polling", "memory", "telegram", "log"} <= {p.name for p in plugins.status() if not p.disabled}
    assert {"alive", "polling", "memory"} <= plugins.watching()
    assert "log" in plugins.senders()
    assert await plugins.send("telegram", alert()) is None


class Unspeakable(Exception):
    def __init__(self, raised: type[BaseException]) -> None:
        self.raised = raised

    def __str__(self) -> str:
        raise self.raised


def unspeakable(raised: type[BaseException]) -> Callable[[Any], Any]:
    def answer(_: Any) -> Any:
        raise Unspeakable(raised)

    return answer


@pytest.mark.parametrize("raised", [KeyboardInterrupt, SystemExit, ValueError, RecursionError])
async def test_an_exception_that_raises_when_it_is_read_costs_one_answer(
    load: Loader, raised: type[BaseException]
) -> None:
    plugins = await load(
        point("bad", checker(unspeakable(raised))), point("good", GOOD), point("mute", sender(unspeakable(raised))),
        point("none", Unspeakable(raised)),
    )  # fmt: skip
    answers = await plugins.check(BOTS)
    assert of(answers, "bad") == [None, None]
    assert of(answers, "good") == [(finding(),), (finding(bot="echo"),)]
    assert [s.text for s in plugins.status() if s.name == "bad"] == [
        "checking greeter: Unspeakable: (it cannot be put into words)"
    ]
    with pytest.raises(SendFailed, match="cannot be put into words"):
        await plugins.send("mute", alert())


async def test_a_findings_text_can_be_written_anywhere_and_has_an_end(load: Loader) -> None:
    text = "half \ud800 a \x1b[31m character " + "x" * 1_000_000
    plugins = await load(point("odd", checker(lambda o: [finding(bot=o.bot, text=text)])))
    ((found,), _) = of(await plugins.check(BOTS), "odd")  # type: ignore[misc]
    assert found.text.encode().startswith(b"half a [31m character xx")
    assert len(found.text) <= 500


async def test_a_flood_of_findings_is_a_failure_of_the_plugin(load: Loader) -> None:
    def flood(o: Observation) -> list[Finding]:
        return [finding(bot=o.bot, check=f"c{n}") for n in range(20 if o.bot == "echo" else 3000)]

    plugins = await load(point("flood", checker(flood)))
    first, second = of(await plugins.check(BOTS), "flood")
    assert first is None
    assert second is not None
    assert len(second) == 20
    (status,) = plugins.status()
    assert (status.failures, "3000 findings" in status.text) == (1, True)
