from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from watched import Clock, alert, until

from multibot_plugin.alerts import outbox as module
from multibot_plugin.alerts.outbox import LONGEST_PAUSE_S, Delivery, Outbox, OutboxError, pause_s
from multibot_plugin.health.states import Alert
from multibot_plugin.plugins import SendFailed


class Channels:
    """Channels that note what they are sent; those in ``down`` fail."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, str]] = []
        self.tries: list[tuple[str, str]] = []
        self.down: set[str] = set()

    async def send(self, channel: str, alert: Alert) -> bool | None:
        self.tries.append((channel, alert.id))
        if channel in self.down:
            raise SendFailed("down")
        self.sent.append((channel, alert.id))
        return True


class Office:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.channels, self.clock = Channels(), Clock()
        self.lost: list[tuple[str, str, str]] = []
        self.outboxes: list[Outbox] = []

    def outbox(self) -> Outbox:
        made = Outbox(
            self.directory, self.channels.send, lambda c, a, why: self.lost.append((c, a.id, why)), self.clock
        )
        self.outboxes.append(made)
        made.open()
        return made

    def files(self) -> list[Path]:
        return sorted(self.directory.glob("*.json"))


@pytest.fixture
async def office(tmp_path: Path) -> AsyncIterator[Office]:
    made = Office(tmp_path / "outbox")
    yield made
    for outbox in made.outboxes:
        await outbox.close()


async def test_an_alert_goes_once_to_every_channel_and_leaves_nothing(office: Office) -> None:
    outbox = office.outbox()
    outbox.spool([alert(1), alert(2)], ["telegram", "log"])
    assert outbox.waiting() == 4
    await until(lambda: len(office.channels.sent) == 4)
    await until(lambda: not office.files())
    assert [a for c, a in office.channels.sent if c == "telegram"] == ["i.1", "i.2"]
    assert sorted(office.channels.sent) == sorted(set(office.channels.sent))


async def test_a_channel_that_fails_is_tried_again_and_holds_up_no_other(office: Office) -> None:
    office.channels.down = {"telegram"}
    outbox = office.outbox()
    outbox.spool([alert(1)], ["telegram", "log"])
    await until(lambda: ("log", "i.1") in office.channels.sent and ("telegram", "i.1") in office.channels.tries)
    await until(lambda: outbox.waiting() == 1)
    office.channels.down = set()
    office.clock.forward(pause_s(1) + 0.1)
    outbox.spool([alert(1, "other")], ["telegram"])  # wakes the channel; the real clock would have
    await until(lambda: len(office.channels.sent) == 3)
    await until(lambda: not office.files())


def test_pauses_grow_up_to_ten_minutes() -> None:
    assert [pause_s(n) for n in (1, 2, 3, 9, 10, 99)] == [2, 4, 8, 512, LONGEST_PAUSE_S, LONGEST_PAUSE_S]


async def test_messages_of_one_incident_keep_their_order_and_others_overtake(office: Office) -> None:
    office.channels.down = {"telegram"}
    outbox = office.outbox()
    outbox.spool([alert(1, "a")], ["telegram"])
    await until(lambda: office.channels.tries == [("telegram", "a.1")])
    office.channels.down = set()
    outbox.spool([alert(2, "a"), alert(1, "b")], ["telegram"])
    await until(lambda: len(office.channels.sent) == 3)
    assert [a for _, a in office.channels.sent] == ["b.1", "a.1", "a.2"]


async def test_a_channel_that_is_back_has_what_waited_at_once_the_oldest_first(office: Office) -> None:
    office.channels.down = {"telegram"}
    outbox = office.outbox()
    for incident in "abc":
        outbox.spool([alert(1, incident)], ["telegram"])
        await until(lambda: ("telegram", f"{incident}.1") in office.channels.tries)  # noqa: B023
        office.clock.forward(0.1)
    office.channels.down = set()
    outbox.spool([alert(1, "new")], ["telegram"])
    await until(lambda: len(office.channels.sent) == 4)
    assert [a for _, a in office.channels.sent] == ["new.1", "a.1", "b.1", "c.1"]


async def test_what_a_killed_monitor_left_is_sent_by_the_next(office: Office) -> None:
    office.channels.down = {"telegram"}
    first = office.outbox()
    first.spool([alert(1), alert(2)], ["telegram"])
    await first.close()
    office.channels.down = set()
    office.outbox()
    await until(lambda: office.channels.sent == [("telegram", "i.1"), ("telegram", "i.2")])
    await until(lambda: not office.files())


async def test_the_same_alert_is_not_put_in_twice(office: Office) -> None:
    office.channels.down = {"telegram"}
    outbox = office.outbox()
    outbox.spool([alert(1)], ["telegram"])
    outbox.spool([alert(1)], ["telegram"])
    assert outbox.waiting() == len(office.files()) == 1


@pytest.mark.parametrize(("tries", "age_s", "lost"), [(20, 86401, True), (20, 86000, False), (3, 86401, False)])
async def test_after_a_day_an_alert_is_given_up_unless_only_the_clock_jumped(
    office: Office, tries: int, age_s: float, lost: bool
) -> None:
    office.channels.down = {"telegram"}
    office.clock.wall += age_s
    outbox = office.outbox()
    outbox.spool([alert(1)], ["telegram"])
    for number in range(1, tries + 1):
        await until(
            lambda number=number: len([a for _, a in office.channels.tries if a == "i.1"]) >= number or office.lost
        )
        office.clock.mono += LONGEST_PAUSE_S + 1
        outbox._deliver_soon("telegram")
    assert bool(office.lost) is lost
    if lost:
        assert office.lost == [("telegram", "i.1", "down")]
        assert office.files() == []


async def test_a_file_that_is_no_alert_is_set_aside(office: Office) -> None:
    office.directory.mkdir()
    for name, text in (("000000000007-x.json", "{"), ("rubbish.json", "{}")):
        (office.directory / name).write_text(text)
    outbox = office.outbox()
    assert office.files() == []
    outbox.spool([alert(1)], ["x"])
    await until(lambda: office.channels.sent == [("x", "i.1")])
    assert len(list(office.directory.glob("*.bad"))) == 2


async def test_a_full_disk_is_one_clear_error_and_silences_no_alert(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object, **more: object) -> None:
        raise OSError(28, "No space left on device")

    outbox = office.outbox()
    with monkeypatch.context() as patch:
        patch.setattr(module, "replace_file", full)
        for alerts in ([alert(1), alert(2)], []):  # it is said as long as it is so
            with pytest.raises(OutboxError, match="cannot be written: No space left on device"):
                outbox.spool(alerts, ["x"])
        await until(lambda: office.channels.sent == [("x", "i.1"), ("x", "i.2")])
    outbox.spool([], ["x"])
    assert list(office.directory.iterdir()) == []
    outbox.spool([alert(3)], ["x"])
    await until(lambda: len(office.channels.sent) == 3)


async def test_a_file_that_cannot_be_removed_is_not_sent_over_and_over(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stuck(*arguments: object, **more: object) -> None:
        raise OSError(30, "Read-only file system")

    outbox = office.outbox()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", stuck)
        outbox.spool([alert(1)], ["x"])
        await until(lambda: outbox.waiting() == 0)
        outbox.spool([alert(2)], ["x"])
        await until(lambda: len(office.channels.sent) == 2)
    assert office.channels.sent == [("x", "i.1"), ("x", "i.2")]


async def test_a_channel_holds_a_limited_number_and_gives_up_the_oldest(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PER_CHANNEL", 3)
    office.channels.down = {"x"}
    office.outbox().spool([alert(n) for n in range(5)], ["x"])
    assert [a for _, a, _ in office.lost] == ["i.0", "i.1"]
    assert len(office.files()) == 3


async def test_it_is_known_how_each_channel_does_and_what_was_told(office: Office) -> None:
    office.channels.down = {"telegram"}
    box = office.outbox()
    box.spool([alert(1), alert(1, "b")], ["telegram", "log"])
    failing = [Delivery("log", 0, ""), Delivery("telegram", 2, "down")]
    await until(lambda: box.deliveries() == failing)
    assert (box.holds("telegram", "i"), box.holds("log", "i"), box.holds("telegram", "x")) == (True, False, False)
    office.channels.down = set()
    office.clock.forward(2)
    box.spool([alert(1, "c")], ["telegram"])
    await until(lambda: box.deliveries() == [Delivery("log", 0, ""), Delivery("telegram", 0, "")])
    assert not box.holds("telegram", "i")


async def test_a_channels_name_may_be_anything(office: Office) -> None:
    office.channels.down = {"a/b-c é"}
    first = office.outbox()
    first.spool([alert(1)], ["a/b-c é"])
    await first.close()
    office.channels.down = set()
    office.outbox()
    await until(lambda: office.channels.sent == [("a/b-c é", "i.1")])


async def test_a_slip_in_a_delivery_does_not_end_the_channel(office: Office) -> None:
    broken: list[Callable[[], None]] = [lambda: {}["slip"]]  # type: ignore[typeddict-item]

    async def send(channel: str, alert: Alert) -> bool | None:
        if broken:
            broken.pop()()
        return await office.channels.send(channel, alert)

    outbox = Outbox(office.directory, send, lambda c, a, why: None, office.clock)
    office.outboxes.append(outbox)
    outbox.spool([alert(1, "a")], ["x"])
    await until(lambda: not broken)
    outbox.spool([alert(1, "b")], ["x"])
    await until(lambda: office.channels.sent == [("x", "b.1")])
    office.clock.forward(LONGEST_PAUSE_S + 1)
    outbox.spool([alert(1, "c")], ["x"])
    await until(lambda: ("x", "a.1") in office.channels.sent)


async def test_alerts_are_for_their_owner_alone(office: Office) -> None:
    office.channels.down = {"x"}
    office.outbox().spool([alert(1)], ["x"])
    (file,) = office.files()
    assert file.stat().st_mode & 0o777 == 0o600
    assert office.directory.stat().st_mode & 0o777 == 0o700
    assert file.stat().st_uid == os.geteuid()
