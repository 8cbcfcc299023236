"""Bots whose polls are not seen, or that do not poll: what Telegram says of them, their watchdog, their handlers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest
from watched import NOW, NOW_AT, heartbeat, observation

from multibot_hooks import polling, slow, webhook
from multibot_plugin.health.rules import followed, is_unseen, judge
from multibot_plugin.hookspecs import Health, Level, MonitorInfo, Observation, WebhookInfo

UNSEEN = {"polling_seen": False, "poll_start_mono": None, "poll_success_mono": None, "poll_timeout_s": None}


@pytest.fixture
def no_probes() -> Iterator[None]:
    webhook.multibot_configure(MonitorInfo("h", {"monitor.probe_s": 0.0}, {}))
    yield
    webhook.multibot_configure(MonitorInfo("h", {"monitor.probe_s": 60.0}, {}))


def blind(settings: dict[str, Any] | None = None, info: WebhookInfo | None = None, **beat: Any) -> Observation:
    """A command bot, about which Telegram said ``info``."""
    return observation(settings, launch="command", heartbeat=heartbeat(**UNSEEN, **beat), webhook=info)


def said(**changes: Any) -> WebhookInfo:
    return WebhookInfo(**{"asked_mono": NOW - 5, **changes})


def found(seen: Observation) -> list[tuple[str, bool]]:
    return [(f.check, f.restart) for f in polling.multibot_check(seen)]


# --- receives ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("launch", "receives", "polled", "polls"),
    [
        ("build", "auto", False, True),
        ("build", "polling", False, True),
        ("build", "webhook", False, False),
        ("build", "nothing", True, False),
        ("script", "auto", False, False),
        ("script", "auto", True, True),
        ("script", "polling", False, False),  # where nothing shows, perhaps
        ("script", "polling", True, True),
        ("script", "webhook", True, False),
        ("script", "nothing", True, False),
        ("command", "auto", False, False),
        ("command", "polling", False, False),
        ("command", "webhook", False, False),
    ],
)
def test_whose_polls_tell_whether_updates_reach_it(launch: str, receives: str, polled: bool, polls: bool) -> None:
    beat = heartbeat() if polled else heartbeat(**UNSEEN)
    seen = observation({"receives": receives}, launch=launch, heartbeat=beat)
    assert (seen.polls, is_unseen(seen)) == (polls, not polls)


@pytest.mark.parametrize(
    ("launch", "receives", "deaf"),
    [
        ("script", "polling", False), ("build", "polling", True), ("build", "auto", True), ("script", "auto", False),
        ("script", "webhook", False), ("build", "webhook", False), ("build", "nothing", False),
        ("command", "polling", False),
    ],
)  # fmt: skip
def test_who_has_not_polled_by_the_end_of_the_grace_is_deaf_where_it_has_to_poll(
    launch: str, receives: str, deaf: bool
) -> None:
    beat = heartbeat(**UNSEEN, start_mono=NOW - 31)
    assert found(observation({"receives": receives}, launch=launch, heartbeat=beat)) == [("deaf", True)] * deaf


def test_a_bot_that_only_sends_is_never_deaf_even_if_it_polled_once() -> None:
    beat = heartbeat(poll_success_mono=NOW - 9999, poll_start_mono=NOW - 9999)
    seen = observation({"receives": "nothing"}, heartbeat=beat, webhook=said(pending=9, waiting_probes=99))
    assert found(seen) == []
    assert judge(seen, []) == (Health.HEALTHY, "only sends")


def test_a_bot_that_receives_by_webhook_is_healthy_without_polls() -> None:
    seen = observation({"receives": "webhook"}, launch="build", heartbeat=heartbeat(**UNSEEN))
    assert judge(seen, []) == (Health.HEALTHY, "receives by webhook")


# --- what Telegram says ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [401, 404])
def test_a_token_that_telegram_rejects_is_told_of_a_bot_whose_polls_are_not_seen(code: int) -> None:
    (finding,) = polling.multibot_check(blind(info=said(code=code)))
    assert (finding.check, finding.level, finding.health) == ("unauthorised", Level.CRITICAL, Health.UNAUTHORISED)
    assert (finding.text, finding.restart) == (f"unauthorised: Telegram rejects its token ({code})", False)


def test_updates_that_wait_over_several_probes_and_become_no_fewer_mean_deaf() -> None:
    waiting = said(pending=2, waiting_probes=11, waiting_since_mono=NOW - 185, fetched=True)
    assert found(blind(info=waiting)) == []
    for receives in ("auto", "polling"):
        (finding,) = polling.multibot_check(blind({"receives": receives}, replace(waiting, waiting_probes=12)))
        assert (finding.check, finding.restart, finding.since_mono) == ("deaf", True, NOW - 185)
        assert finding.text == "deaf: 2 updates have been waiting at Telegram for 3 min"


def test_updates_that_wait_because_their_delivery_fails_say_so() -> None:
    waiting = said(pending=2, waiting_probes=12, waiting_since_mono=NOW - 185, origin="https://h")
    refused = replace(waiting, error="Wrong response from the webhook: 502", error_at=NOW_AT - 30)
    (finding,) = polling.multibot_check(blind({"receives": "webhook"}, refused))
    cause = "which cannot deliver: Wrong response from the webhook: 502"
    assert finding.text == f"deaf: 2 updates have been waiting at Telegram for 3 min, {cause}"
    (finding,) = polling.multibot_check(blind({"receives": "webhook"}, replace(refused, error_at=NOW_AT - 3600)))
    assert "cannot deliver" not in finding.text


@pytest.mark.parametrize("launch", ["script", "command"])
def test_who_was_never_seen_to_fetch_is_told_but_not_restarted_it_may_only_send(launch: str) -> None:
    waiting = said(pending=1, waiting_probes=12, waiting_since_mono=NOW - 185)
    (finding,) = polling.multibot_check(replace(blind(info=waiting), launch=launch))
    assert (finding.check, finding.restart) == ("deaf", False)
    assert finding.text == "deaf: 1 update has been waiting at Telegram for 3 min (does it only send? receives=nothing)"
    assert found(replace(blind({"receives": "polling"}, waiting), launch=launch)) == [("deaf", True)]


def test_what_has_arrived_meanwhile_shows_that_it_hears() -> None:
    waiting = said(pending=2, waiting_probes=99, waiting_since_mono=NOW - 600)
    seen = blind({"receives": "webhook"}, replace(waiting, origin="https://h"), update_mono=NOW - 20)
    assert found(seen) == []


def test_an_update_that_its_handler_has_is_slow_and_not_deaf() -> None:
    waiting = said(pending=2, waiting_probes=99, waiting_since_mono=NOW - 80, origin="https://h")
    seen = blind({"receives": "webhook"}, waiting, update_mono=NOW - 90, oldest_update_mono=NOW - 90)
    assert found(seen) == []
    assert [f.check for f in slow.multibot_check(seen)] == ["slow"]


def test_deaf_is_over_when_nothing_waits_any_more_and_not_because_it_was_restarted() -> None:
    told = replace(blind(), open=frozenset({"deaf"}), uptime_s=20.0)
    (held,) = polling.multibot_check(told)
    assert (held.check, held.restart, held.text) == ("deaf", False, "deaf: no sign of life yet since it came back")
    still = said(pending=2, waiting_probes=1, waiting_since_mono=NOW - 5)
    assert found(replace(told, webhook=still)) == [("deaf", False)]
    assert found(replace(told, webhook=replace(still, fetched=True))) == [("deaf", True)]
    assert found(replace(told, webhook=said())) == []
    assert found(replace(told, webhook=said(code=401))) == [("unauthorised", False), ("deaf", False)]
    assert found(replace(told, uptime_s=9999.0)) == [("deaf", False)]  # the monitor came back, not the bot


def test_what_was_told_does_not_stay_where_telegram_is_not_asked(no_probes: None) -> None:
    assert found(replace(blind(), open=frozenset({"deaf"}))) == []
    assert webhook.multibot_check(replace(blind(), open=frozenset({"webhook"}))) == []


@pytest.mark.parametrize(
    ("answers", "probes", "since"),
    [
        ([0], 0, None), ([1], 1, 0), ([1, 1], 2, 0), ([1, 5, 9], 3, 0), ([5, 4], 0, None), ([5, 4, 4], 1, 2),
        ([1, 0, 1], 1, 2),
    ],
)  # fmt: skip
def test_how_often_in_a_row_updates_waited_and_became_no_fewer(
    answers: list[int], probes: int, since: float | None
) -> None:
    info = None
    for at, pending in enumerate(answers):
        info = followed(info, WebhookInfo(float(at), pending=pending))
    assert info is not None
    assert (info.waiting_probes, info.waiting_since_mono) == (probes, since)


@pytest.mark.parametrize(
    ("answers", "every_s", "fetched"),
    [([1, 1, 2], 60, False), ([0, 0], 60, False), ([2, 1], 60, True), ([1, 0, 0, 3], 60, True),
     ([1, 1, 0], 40_000, False)],
)  # fmt: skip
def test_whether_updates_were_ever_fetched(answers: list[int], every_s: float, fetched: bool) -> None:
    """Or dropped by Telegram after a day."""
    info = None
    for at, pending in enumerate(answers):
        info = followed(info, WebhookInfo(at * every_s, pending=pending))
    assert info is not None
    assert info.fetched is fetched


@pytest.mark.parametrize(
    ("launch", "info", "text", "restart"),
    [
        ("build", said(), "deaf: no webhook is set", True),
        ("command", said(), "deaf: no webhook is set", False),
        ("build", said(origin="https://other", as_configured=False),
         "deaf: its webhook leads elsewhere: to https://other", False),
    ],
)  # fmt: skip
def test_a_webhook_that_is_missing_or_another_keeps_updates_away(
    launch: str, info: WebhookInfo, text: str, restart: bool
) -> None:
    seen = observation({"receives": "webhook"}, launch=launch, heartbeat=heartbeat(**UNSEEN), webhook=info)
    (finding,) = polling.multibot_check(seen)
    assert (finding.text, finding.restart, finding.health) == (text, restart, Health.DEAF)
    early = replace(seen, heartbeat=heartbeat(**UNSEEN, start_mono=NOW - 34))  # asked before it can have set it
    assert found(early) == []
    assert found(replace(seen, settings={**seen.settings, "receives": "auto"}, launch="command")) == []


def test_a_webhook_takes_the_updates_of_a_command_that_has_to_poll() -> None:
    (finding,) = polling.multibot_check(blind({"receives": "polling"}, said(origin="https://h.example")))
    assert (finding.health, finding.restart) == (Health.CONFLICTED, False)
    assert "a webhook takes its updates to https://h.example" in finding.text
    assert found(blind(info=said(origin="https://h.example"))) == []


@pytest.mark.parametrize(("told", "held"), [("deaf", []), ("frozen", []), ("unauthorised", [("unauthorised", False)])])
def test_an_update_that_a_bot_handled_shows_that_it_hears_again(told: str, held: list[tuple[str, bool]]) -> None:
    back = replace(blind({"receives": "webhook"}), open=frozenset({told}))
    assert found(back) == [(told, False)]
    assert found(replace(back, heartbeat=heartbeat(**UNSEEN, update_mono=NOW - 1))) == held


def test_a_delivery_that_failed_is_told_in_telegrams_words_while_something_waits() -> None:
    failed = said(origin="https://h", pending=1, error_at=NOW_AT - 60, error="Connection refused")
    seen = blind({"receives": "webhook"}, failed)
    (finding,) = webhook.multibot_check(seen)
    assert (finding.check, finding.level, finding.health) == ("webhook", Level.WARNING, Health.DEGRADED)
    assert finding.text == "webhook: Telegram cannot deliver: Connection refused"
    assert webhook.multibot_check(replace(seen, webhook=replace(failed, pending=0))) == []
    assert webhook.multibot_check(replace(seen, webhook=replace(failed, error_at=NOW_AT - 700))) == []
    assert webhook.multibot_check(replace(seen, heartbeat=heartbeat(**UNSEEN, update_mono=NOW - 30))) == []
    assert webhook.multibot_check(replace(seen, webhook=None)) == []
    told = replace(seen, webhook=None, open=frozenset({"webhook"}))
    (held,) = webhook.multibot_check(told)
    assert held.text == "webhook: not known yet whether Telegram can deliver again"
    assert webhook.multibot_check(replace(told, heartbeat=heartbeat(**UNSEEN, update_mono=NOW - 1))) == []


# --- watchdog ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("beat", "frozen"),
    [
        ({"watchdog_s": 10.0, "watchdog_mono": NOW - 10}, False),
        ({"watchdog_s": 10.0, "watchdog_mono": NOW - 11}, True),
        ({"watchdog_s": 10.0, "start_mono": NOW - 30}, False),  # the grace of a start
        ({"watchdog_s": 10.0, "start_mono": NOW - 31}, True),
        ({"watchdog_s": 60.0, "start_mono": NOW - 59}, False),
        ({"watchdog_s": 10.0, "start_mono": NOW - 999, "until_mono": NOW - 20}, False),
        ({"watchdog_s": None, "watchdog_mono": NOW - 999}, False),
    ],
)
def test_a_command_that_does_not_feed_its_watchdog_is_frozen(beat: dict[str, Any], frozen: bool) -> None:
    assert found(blind(**beat)) == [("frozen", True)] * frozen


def test_a_frozen_command_is_well_when_it_fed_its_watchdog_again() -> None:
    told = replace(blind(watchdog_s=10.0, start_mono=NOW - 5), open=frozenset({"frozen"}))
    assert found(told) == [("frozen", False)]
    fed = heartbeat(**UNSEEN, watchdog_s=10.0, watchdog_mono=NOW - 1)
    assert found(replace(told, heartbeat=fed)) == []
    (finding,) = polling.multibot_check(blind(watchdog_s=10.0, watchdog_mono=NOW - 47))
    assert finding.text == "frozen: no WATCHDOG=1 from it for 47 s"


def test_what_a_command_says_of_itself_stands_beside_its_health() -> None:
    assert judge(blind(status="serving 3 chats"), []) == (Health.HEALTHY, "it says: serving 3 chats")
    assert judge(blind(), []) == (Health.HEALTHY, "polling is not visible")


# --- handlers and floods -----------------------------------------------------------------------------------------


def test_an_update_that_waits_for_its_handler_for_too_long_is_slow() -> None:
    seen = observation(heartbeat=heartbeat(oldest_update_mono=NOW - 90))
    (finding,) = slow.multibot_check(seen)
    assert (finding.check, finding.level, finding.health) == ("slow", Level.WARNING, Health.DEGRADED)
    assert finding.text == "slow: an update has been waiting for its handler for 90 s"
    assert (finding.restart, finding.since_mono) == (False, NOW - 90)
    for changes in ({"state": "stopped"}, {"heartbeat": heartbeat(oldest_update_mono=NOW - 60)}, {"heartbeat": None}):
        assert slow.multibot_check(replace(seen, **changes)) == []  # type: ignore[arg-type]
    assert slow.multibot_check(observation({"slow_after_s": 0.0}, heartbeat=seen.heartbeat)) == []


def test_until_when_telegram_wants_no_poll_is_said_and_waiting_so_long_is_not_deaf() -> None:
    flooded = heartbeat(poll_code=429, flood_until_mono=NOW + 25, poll_success_mono=NOW - 300)
    (finding,) = polling.multibot_check(observation(heartbeat=flooded))
    clock = f"{datetime.fromtimestamp(NOW_AT + 25):%H:%M:%S}"
    assert finding.text == f"throttled: Telegram wants no poll until {clock} (429)"
    assert finding.check == "throttled"
    over = replace(flooded, flood_until_mono=NOW - 10)
    assert found(observation(heartbeat=over)) == [("throttled", False)]
    assert found(observation(heartbeat=replace(over, flood_until_mono=NOW - 46))) == [("deaf", False)]
