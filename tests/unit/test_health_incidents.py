from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from watched import NOW, NOW_AT, PID, finding

from multibot_plugin.health.incidents import Change, Key, Seen, Step, Track, advance, after_boot, of_bot, open_checks
from multibot_plugin.health.states import Finding, Level

WATCHING = frozenset({"polling", "memory"})
WARNING, CRITICAL = Level.WARNING, Level.CRITICAL


class Days:
    """The life of one bot's incidents, tick by tick."""

    def __init__(self) -> None:
        self.tracks: dict[Key, Track] = {}
        self.now = NOW

    def tick(self, *findings: Finding, after_s: float = 5.0, plugin: str = "polling", **view: object) -> list[str]:
        """Go on by ``after_s``; return the kinds of change."""
        self.now += after_s
        seen = Seen("greeter", **{"pid": PID, "findings": [(plugin, f) for f in findings], **view})  # type: ignore[arg-type]
        return self.see(seen)

    def see(self, *seen: Seen, watching: frozenset[str] = WATCHING) -> list[str]:
        self.step = advance(self.tracks, seen, watching, self.now, NOW_AT + self.now - NOW)
        self.tracks = dict(self.step.tracks)
        return [c.kind for c in self.step.changes]

    @property
    def track(self) -> Track:
        (track,) = self.tracks.values()
        return track


def test_a_finding_without_delay_opens_at_once_and_only_once() -> None:
    days = Days()
    assert days.tick(finding()) == ["opened"]
    assert days.tick(finding()) == []
    assert days.tick() == ["resolved"]
    assert days.tick() == []
    assert days.tracks == {}


def test_an_incident_began_when_it_went_wrong_and_not_when_it_was_found() -> None:
    days = Days()
    found_at = days.now + 5
    days.tick(finding(since_mono=found_at - 47))
    assert days.track.since == found_at
    assert days.track.lasted_s(found_at + 5) == 52
    assert days.track.began_at == days.track.since_at - 47
    before = days.track
    days.tick(finding(since_mono=days.now - 1))
    assert days.track.began_at == before.began_at
    days = Days()
    days.tick(finding(since_mono=days.now + 99))
    assert days.track.before_s == 0


def test_a_finding_with_a_delay_opens_when_it_has_lasted() -> None:
    days = Days()
    lasting = finding(for_s=10)
    assert days.tick(lasting) == []
    assert open_checks(days.tracks, "greeter") == frozenset()
    assert days.tick(lasting) == []
    assert days.tick(lasting) == ["opened"]
    assert open_checks(days.tracks, "greeter") == {"deaf"}


def test_a_pending_finding_that_goes_away_leaves_nothing_and_begins_anew() -> None:
    days = Days()
    lasting = finding(for_s=10)
    days.tick(lasting)
    assert days.tick() == []
    assert days.tick(lasting) == []
    assert days.tick(lasting) == []
    assert days.tick(lasting) == ["opened"]


def test_a_warning_that_becomes_critical_must_be_critical_for_as_long() -> None:
    days = Days()
    low, high = finding("memory", WARNING, for_s=10), finding("memory", CRITICAL, for_s=10)
    for _ in range(2):
        assert days.tick(low) == []
    assert days.tick(low) == ["opened"]
    assert days.track.level is WARNING
    assert days.tick(high) == []
    assert days.tick(high) == []
    assert not days.track.ripe(days.now)
    assert days.tick(high) == ["changed"]
    assert days.track.level is CRITICAL
    assert days.track.ripe(days.now)


def test_a_mixture_of_levels_opens_as_a_warning_and_a_level_never_falls() -> None:
    days = Days()
    low, high = finding("memory", WARNING, for_s=10), finding("memory", CRITICAL, for_s=10)
    days.tick(low)
    days.tick(high)
    assert days.tick(high) == ["opened"]
    assert days.track.level is WARNING
    assert days.tick(high) == ["changed"]
    assert days.tick(low) == []
    assert days.track.level is CRITICAL
    assert days.track.critical_since is None
    assert days.tick() == ["resolved"]


def test_a_new_process_begins_the_waiting_anew_but_not_the_incident() -> None:
    days = Days()
    high = finding("memory", CRITICAL, for_s=10, restart=True)
    days.tick(high)
    days.tick(high)
    assert days.tick(high) == ["opened"]
    assert days.track.ripe(days.now)
    assert days.tick(high, pid=PID + 1) == []
    assert not days.track.ripe(days.now)
    assert days.track.level is CRITICAL
    days.tick(high, pid=PID + 1)
    days.tick(high, pid=PID + 1)
    assert days.track.ripe(days.now)


def test_a_check_that_gave_no_answer_changes_nothing() -> None:
    days = Days()
    days.tick(finding())
    before = days.track
    assert days.tick(silent=frozenset({"polling"})) == []
    assert days.track == before
    assert days.tick(silent=frozenset({"memory"})) == ["resolved"]


def endings(days: Days) -> list[str]:
    return [c.ending for c in days.step.changes]


def test_how_an_incident_ends_is_told() -> None:
    days = Days()
    days.tick(finding())
    days.tick(ending="was stopped", deserted=True)
    assert endings(days) == ["was stopped"]

    days.tick(finding())
    days.see()
    assert endings(days) == ["was removed"]

    days.tick(finding())
    days.see(Seen("greeter", PID), watching=frozenset({"memory"}))
    assert endings(days) == ["is not checked any more by polling"]


def test_findings_about_a_deserted_bot_do_not_count() -> None:
    days = Days()
    assert days.tick(finding(), deserted=True) == []
    assert days.tracks == {}


def test_a_deserted_bot_ends_its_incidents_though_the_check_is_silent() -> None:
    days = Days()
    days.tick(finding())
    assert days.tick(silent=frozenset({"polling"}), deserted=True, ending="was stopped") == ["resolved"]


def test_two_plugins_with_one_check_make_one_incident_of_the_worse() -> None:
    days = Days()
    seen = [("memory", finding(level=WARNING)), ("polling", finding()), ("memory", finding(level=WARNING))]
    assert days.see(Seen("greeter", PID, seen)) == ["opened"]
    assert days.track.plugin == "polling"
    assert days.track.level is CRITICAL


def test_incidents_of_a_bot_come_worst_first_then_oldest() -> None:
    days = Days()
    days.tick(finding("young", WARNING))
    days.tick(finding("young", WARNING), finding("worse"), finding("pending", for_s=99))
    assert [t.finding.check for t in of_bot(days.tracks, "greeter")] == ["worse", "young"]
    assert of_bot(days.tracks, "echo") == []


def test_the_id_of_an_incident_is_the_same_after_a_crash_and_another_for_the_next() -> None:
    days, again = Days(), Days()
    days.tick(finding())
    again.tick(finding())
    assert days.track.id == again.track.id
    days.tick()
    days.tick(finding())
    assert days.track.id != again.track.id


@pytest.mark.parametrize(("past_s", "age_s"), [(300.0, 300.0), (-50.0, 0.0)])
def test_after_a_reboot_the_wall_clock_tells_how_old_a_track_is(past_s: float, age_s: float) -> None:
    days = Days()
    days.tick(finding(for_s=3))
    days.tick(finding(for_s=3))
    moved = after_boot([days.track], 7.0, days.track.since_at + past_s)[0]
    assert moved.since == 7.0 - age_s
    assert moved.critical_since == moved.since
    assert moved.armed_since == 7.0
    assert after_boot([replace(days.track, critical_since=None)], 7.0, NOW_AT)[0].critical_since is None


FINDINGS = st.lists(
    st.tuples(st.sampled_from(["polling", "memory"]), st.builds(
        finding, st.sampled_from(["deaf", "memory"]), st.sampled_from(list(Level)), for_s=st.sampled_from([0.0, 7.0]),
    )), max_size=4)  # fmt: skip
TICKS = st.lists(
    st.builds(Seen, st.just("greeter"), st.sampled_from([PID, PID + 1, None]), FINDINGS,
              st.frozensets(st.sampled_from(["polling", "memory"])), deserted=st.booleans()),
    max_size=20,
)  # fmt: skip


@given(TICKS)
def test_every_incident_opens_once_rises_once_at_most_and_resolves_once(ticks: list[Seen]) -> None:
    tracks: dict[Key, Track] = {}
    told: dict[str, list[str]] = {}
    for number, seen in enumerate(ticks):
        step: Step = advance(tracks, [seen], WATCHING, NOW + 5.0 * number, NOW_AT + 5.0 * number)
        for change in step.changes:
            told.setdefault(change.track.id, []).append(change.kind)
        tracks = dict(step.tracks)
        assert all(key == track.key for key, track in tracks.items())
    for kinds in told.values():
        assert kinds in (["opened"], ["opened", "changed"], ["opened", "resolved"], ["opened", "changed", "resolved"])
    for track in tracks.values():
        assert (track.level is not None) == (track.id in told)


def test_a_change_carries_the_track_as_it_is_then() -> None:
    days = Days()
    days.tick(finding())
    (change,) = days.step.changes
    assert change == Change("opened", days.track)
    assert days.track.changes == 1
