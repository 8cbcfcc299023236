from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from watched import NOW, NOW_AT, PID, alert, finding, heartbeat, observation

from multibot_plugin.health import ledger as module
from multibot_plugin.health.incidents import Change, Seen, Step, Track, advance
from multibot_plugin.health.judgement import OWN, absent, conclude, own_findings, restart_id, view, wish_id
from multibot_plugin.health.ledger import Ledger, Restart
from multibot_plugin.health.picture import bot_picture, incidents_picture, plugins_picture
from multibot_plugin.health.recovery import Decision
from multibot_plugin.health.states import Health, Level
from multibot_plugin.journal import AuditEntry, new_id
from multibot_plugin.plugins import Answer, PluginStatus


def track(**changes: Any) -> Track:
    """An open incident that is 52 s old."""
    usual = Track("polling", finding(text="deaf: no luck", restart=True), PID, NOW - 52, NOW_AT - 52, NOW - 52,
                  NOW - 52, Level.CRITICAL, 1)  # fmt: skip
    return replace(usual, **changes)


def step(*changes: Change, tracks: tuple[Track, ...] = (track(),)) -> Step:
    return Step({t.key: t for t in tracks}, changes)


RESTART = Decision("greeter", True, track(), "Restarting it (1 of 3 this hour).")


def test_an_incident_that_opens_is_told_once_with_what_is_done() -> None:
    judged = conclude(step(Change("opened", track())), [RESTART], "host-1", NOW, NOW_AT)
    (told,) = judged.alerts
    assert told.text.splitlines()[0] == "✖ greeter is deaf: no luck. Restarting it (1 of 3 this hour)."
    assert (told.kind, told.level, told.incident, told.host) == ("opened", Level.CRITICAL, track().id, "host-1")
    assert told.id == f"{track().id}.1"
    assert judged.restarts == (RESTART,)
    assert judged.tracks[track().key].said == RESTART.said
    (entry,) = judged.entries
    assert (entry.action, entry.bot, entry.actor, entry.door) == ("incident.opened", "greeter", "multibot", "monitor")
    assert entry.detail["decision"] == RESTART.said


def test_nothing_new_is_not_told_again() -> None:
    known = track(said="Not restarting it.")
    decisions = [Decision("greeter", False, known, "Not restarting it."), Decision("echo", False)]
    judged = conclude(step(tracks=(known,)), decisions, "h", NOW, NOW_AT)
    assert judged.alerts == judged.entries == judged.restarts == ()


def test_another_decision_about_the_same_incident_is_told() -> None:
    used = Decision("greeter", False, track(), "Not restarting it: the budget of 1 restart per hour is used up.")
    judged = conclude(step(tracks=(track(said=RESTART.said),)), [used], "h", NOW, NOW_AT)
    (told,) = judged.alerts
    assert (told.kind, told.id) == ("changed", f"{track().id}.2")
    assert told.text.splitlines()[0] == f"✖ greeter is still deaf: no luck. {used.said}"
    assert judged.entries[0].action == "incident.changed"
    again = conclude(step(tracks=(judged.tracks[track().key],)), [used], "h", NOW, NOW_AT)
    assert again.alerts == ()


HELD = Decision("greeter", False, track(), "Not restarting it: https://t does not answer from here.", quiet=True)


def test_what_an_outage_explains_is_recorded_and_told_to_nobody_until_it_outlasts_it() -> None:
    opened = conclude(step(Change("opened", track())), [HELD], "h", NOW, NOW_AT)
    (known,) = opened.tracks.values()
    assert (opened.alerts, known.quiet, known.said) == ((), True, HELD.said)
    assert [entry.action for entry in opened.entries] == ["incident.opened"]
    back = replace(HELD, said="Not restarting it yet: https://t has begun to answer again.")
    again = conclude(step(tracks=(known,)), [back], "h", NOW, NOW_AT)
    assert (again.alerts, [e.action for e in again.entries]) == ((), ["incident.changed"])
    well = conclude(step(Change("resolved", known), tracks=()), [], "h", NOW, NOW_AT)
    assert (well.alerts, [e.action for e in well.entries]) == ((), ["incident.resolved"])
    told = conclude(step(tracks=(known,)), [RESTART], "h", NOW, NOW_AT)
    assert told.alerts[0].text.startswith("✖ greeter is deaf: no luck. Restarting it")
    assert not told.tracks[known.key].quiet


def test_a_server_that_was_not_asked_before_is_waited_for_without_a_word() -> None:
    unknown = replace(HELD, said="")
    opened = conclude(step(Change("opened", track())), [unknown], "h", NOW, NOW_AT)
    assert opened.alerts == opened.restarts == ()
    still = conclude(step(tracks=tuple(opened.tracks.values())), [unknown], "h", NOW, NOW_AT)
    assert still.alerts == still.entries == ()


def test_what_was_told_before_the_outage_ends_in_a_message() -> None:
    told = track(said="Not restarting it: its restart budget is 0.")
    held = conclude(step(tracks=(told,)), [HELD], "h", NOW, NOW_AT)
    assert (held.alerts, held.tracks[told.key].quiet) == ((), False)
    assert conclude(step(Change("resolved", held.tracks[told.key]), tracks=()), [], "h", NOW, NOW_AT).alerts


def test_a_bot_that_is_worse_now_is_not_told_to_be_well_again() -> None:
    conflict = track(finding=finding("conflicted", health=Health.CONFLICTED))
    judged = conclude(step(Change("resolved", conflict), tracks=(track(),)), [], "h", NOW, NOW_AT)
    assert judged.alerts[0].text.startswith("○ greeter is deaf now (conflicted for 52 s).")


def test_every_restart_is_told_also_with_the_same_words() -> None:
    judged = conclude(step(tracks=(track(said=RESTART.said),)), [RESTART], "h", NOW, NOW_AT)
    assert [a.kind for a in judged.alerts] == ["changed"]


def test_the_end_is_told_with_its_length() -> None:
    judged = conclude(step(Change("resolved", track()), tracks=()), [Decision("greeter", False)], "h", NOW, NOW_AT)
    assert judged.alerts[0].text.splitlines()[0] == "● greeter is well again after 52 s (deaf)."
    assert judged.alerts[0].id == f"{track().id}.2"
    assert judged.entries[0].detail["ending"] == "well again"
    judged = conclude(step(Change("resolved", track(), "was stopped"), tracks=()), [], "h", NOW, NOW_AT)
    assert judged.alerts[0].text.startswith("○ greeter was stopped (deaf for 52 s).")


def test_every_message_and_entry_has_an_id_of_its_own_that_a_crash_does_not_change() -> None:
    opened = conclude(step(Change("opened", track())), [RESTART], "h", NOW, NOW_AT)
    again = conclude(step(Change("opened", track())), [RESTART], "h", NOW + 9, NOW_AT + 9)
    resolved = conclude(step(Change("resolved", track()), tracks=()), [], "h", NOW, NOW_AT)
    assert opened.entries[0].id == again.entries[0].id != resolved.entries[0].id
    assert opened.alerts[0].id == again.alerts[0].id != resolved.alerts[0].id
    assert restart_id(RESTART, 1.0) == restart_id(RESTART, 1.0) != restart_id(RESTART, 2.0)
    assert wish_id("a", True, 1, 2) == wish_id("a", True, 1, 2) != wish_id("a", False, 1, 2)


def test_views_join_answers_by_bot_and_name_the_silent() -> None:
    stopped = observation(bot="echo", state="stopped", enabled=False, pid=None)
    answers = [
        Answer("polling", "greeter", (finding(),)),
        Answer("memory", "greeter", None),
        Answer("polling", "echo", ()),
    ]
    greeter, echo = view([observation(), stopped], answers)
    assert greeter == Seen("greeter", PID, [("polling", finding())], frozenset({"memory"}))
    assert echo == Seen("echo", None, [], ending="was stopped", deserted=True)


def test_the_monitor_finds_its_own_troubles() -> None:
    plugins = [PluginStatus("My Plugin!", 5, True, "5 failures"), PluginStatus("ok", 1, False, "x")]
    seen = own_findings(plugins, {"journal": "the journal is full"})
    assert seen.bot == ""
    assert [(p, f.check, f.level, f.text) for p, f in seen.findings] == [
        (OWN, "journal", Level.CRITICAL, "the journal is full"),
        (OWN, "plugin-my-plugin-", Level.WARNING, "plugin My Plugin! is disabled: 5 failures"),
    ]
    judged = conclude(advance({}, [seen], frozenset({OWN}), NOW, NOW_AT), [], "h", NOW, NOW_AT)
    assert [a.text.splitlines()[0] for a in judged.alerts] == [
        "✖ multibot: the journal is full.", "▲ multibot: plugin My Plugin! is disabled: 5 failures.",
    ]  # fmt: skip
    assert all(e.bot is None for e in judged.entries)


def test_a_bot_out_of_sight_for_a_moment_keeps_its_incidents() -> None:
    watching = frozenset({"polling"})
    after = advance({track().key: track()}, absent(["greeter"], watching), watching | {OWN}, NOW, NOW_AT)
    assert (after.changes, after.tracks) == ((), {track().key: track()})


def test_the_picture_has_what_the_plugin_inside_supervisord_reads() -> None:
    seen = observation(heartbeat=heartbeat(update_mono=NOW - 9))
    picture = bot_picture(seen, {}, [NOW_AT - 5])
    assert picture == {
        "pid": PID, "phase": "running", "health": "healthy", "cause": "", "memory_bytes": 50 * 1024**2,
        "cpu_percent": 0.1, "connections": 1, "poll_success_mono": NOW - 1, "update_mono": NOW - 9,
        "restarts_24h": 1, "launch": "script", "webhook": None,
    }  # fmt: skip
    sick = bot_picture(seen, {track().key: track(), ("greeter", "x"): track(level=None)}, [])
    assert (sick["health"], sick["cause"]) == ("deaf", "no luck")
    gone = bot_picture(observation(heartbeat=None, pid=None, state="stopped"), {}, [])
    assert (gone["phase"], gone["health"], gone["poll_success_mono"]) == (None, "unknown", None)


def test_only_open_incidents_are_shown() -> None:
    tracks = {("greeter", "deaf"): track(said="x"), ("greeter", "y"): track(level=None)}
    (shown,) = incidents_picture(tracks, lambda _: ["Telegram (ops)"])
    assert shown == {"id": track().id, "bot": "greeter", "check": "deaf", "level": "critical", "text": "deaf: no luck",
                     "since_at": NOW_AT - 52, "decision": "x", "told": ["Telegram (ops)"]}  # fmt: skip
    assert plugins_picture([PluginStatus("a", 1, False, "t")]) == [
        {"name": "a", "failures": 1, "disabled": False, "text": "t"}
    ]


def full_ledger() -> Ledger:
    entry = AuditEntry(new_id(), NOW_AT, "multibot", "monitor", "greeter", "incident.opened", {"a": 1}, "h")
    tracks = {track().key: track(), ("", "x"): track(finding=finding("x", bot=""), level=None, critical_since=None)}
    return Ledger(tracks, {"greeter": [Restart(NOW - 9, NOW_AT - 9, "deaf", new_id())]}, [alert()], [entry])


def test_a_ledger_comes_back_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "monitor.json"
    assert Ledger.load(path, NOW, NOW_AT) == Ledger()
    full = full_ledger()
    full.save(path)
    assert Ledger.load(path, NOW, NOW_AT) == full
    assert path.stat().st_mode & 0o777 == 0o600


def test_restarts_are_forgotten_after_a_day_and_with_the_last_one_the_bot() -> None:
    def at(age_s: float, done: bool = True) -> Restart:
        return Restart(NOW - age_s, NOW_AT - age_s, "deaf", "e", done)

    ledger = Ledger(restarts={"gone": [at(86_401)], "both": [at(86_401), at(5)], "begun": [at(86_401, done=False)]})
    ledger.prune(NOW)
    assert ledger.restarts == {"both": [at(5)], "begun": [at(86_401, done=False)]}


def test_after_a_reboot_monotonic_times_are_set_by_the_wall_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "monitor.json"
    full_ledger().save(path)
    monkeypatch.setattr(module, "boot_id", lambda: "another")
    loaded = Ledger.load(path, 3.0, NOW_AT + 100)
    assert loaded.tracks["greeter", "deaf"].since == 3.0 - 152
    assert loaded.restarts["greeter"][0].mono == 3.0 - 109


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", json.dumps({"tracks": [{}], "restarts": {}}), "3"])
def test_a_ledger_that_is_none_is_a_clear_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "monitor.json"
    path.write_text(text)
    with pytest.raises(ValueError):  # noqa: PT011 - json's own message, or ours with the path
        Ledger.load(path, NOW, NOW_AT)


def test_a_ledger_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    path = tmp_path / "monitor.json"
    path.symlink_to("/etc/passwd")
    with pytest.raises(ValueError, match=r"monitor\.json"):
        Ledger.load(path, NOW, NOW_AT)


def test_without_a_boot_id_there_is_still_a_ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BOOT_ID", tmp_path / "none")
    assert module.boot_id() == ""
