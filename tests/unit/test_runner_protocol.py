"""What a bot's files may hold, and what comes out of them: the bot itself may have written anything."""

from __future__ import annotations

import dataclasses
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from watched import PID, observation

from multibot_hooks import alive, memory, polling
from multibot_plugin.health.picture import bot_picture
from multibot_runner import backoff
from multibot_runner.protocol import (
    BadFile,
    BotPaths,
    Exit,
    Heartbeat,
    Run,
    RunnerSettings,
    decode,
    decode_object,
    decode_runs,
    encode,
)
from multibot_runner.readers import read_heartbeat, read_live, read_runs

NESTED = "[" * 200_000
BEAT = Heartbeat(pid=7, phase="running", start_mono=1.5, loop_mono=2.0, polling_seen=True, poll_code=429)
RUNS = (Run(1.0, 2.0, 3, "d"), Run(1.0, 2.0, 3, "d", True, Exit(4.0, "crashed", "é 🤖", signal=9)))
SETTINGS = RunnerSettings(
    bot="echo", launch="script", target="/x.py", token_var="T", env={"A": "b\nc"}, env_file="", workdir="", python="",
    uid=70_001, user="", bot_api_url="https://x", stop_wait_s=10.0, poll_timeout_s=50, backoff_max_s=300.0,
)  # fmt: skip
# Values of every type, with those that Python's json takes and that break arithmetic, clocks and terminals.
ODD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from([10**400, -(10**12), 10**14])
    | st.floats() | st.text(max_size=20) | st.sampled_from(["\ud800", "\x1b[2J", "a\nb", "x" * 9000]),
    lambda some: st.lists(some, max_size=3) | st.dictionaries(st.text(max_size=5), some, max_size=3), max_leaves=5,
)  # fmt: skip


def odd(kind: Any) -> st.SearchStrategy[dict[str, Any]]:
    """Objects that have some of the fields of ``kind``."""
    good: dict[str, Any] = {"phase": st.just("running"), "exit": ODD | st.just(vars(RUNS[1].exit))}
    fields = [f.name for f in dataclasses.fields(kind)]
    return st.fixed_dictionaries({}, optional={name: good.get(name, st.just(1)) | ODD for name in fields})


def test_what_is_written_is_read_back() -> None:
    assert decode(Heartbeat, encode(BEAT)) == BEAT
    assert decode_runs(encode(RUNS)) == RUNS
    assert decode(RunnerSettings, encode(SETTINGS)) == SETTINGS
    assert decode(Heartbeat, encode(BEAT)[:-1] + b', "later": 1}') == BEAT


def test_half_a_character_is_no_reason_not_to_write_down_an_end() -> None:
    name = os.fsdecode(b"caf\xe9.db")
    assert decode(Exit, encode(Exit(4.0, "crashed", f"FileNotFoundError: {name}"))).text == "FileNotFoundError: caf .db"
    settings = dataclasses.replace(SETTINGS, target=name)
    assert decode(RunnerSettings, encode(settings)) == settings


@pytest.mark.parametrize(
    "text", ["", "{", NESTED, "[]", "3", "null", '"x"', "\xff", "1" * 5000, "{}", '{"a":' * 99_999]
)
def test_what_is_no_object_of_ours_is_a_bad_file(text: str) -> None:
    data = text.encode("latin-1")
    for kind in (Heartbeat, RunnerSettings):
        with pytest.raises(BadFile):
            decode(kind, data)
    if text != "[]":
        with pytest.raises(BadFile):
            decode_runs(data)
    if text != "{}":
        with pytest.raises(BadFile):
            decode_object(data)


@pytest.mark.parametrize(
    "changes",
    [
        {"pid": "7"}, {"pid": True}, {"pid": 7.5}, {"pid": None}, {"pid": 10**400}, {"phase": 3}, {"phase": None},
        {"start_mono": "1"}, {"start_mono": -1}, {"start_mono": 1e12}, {"start_mono": float("nan")},
        {"loop_mono": []}, {"poll_success_mono": 10**400}, {"poll_count": {}}, {"polling_seen": 1},
        {"poll_code": "429"}, {"until_mono": True},
    ],
)  # fmt: skip
def test_a_field_of_another_type_or_out_of_range_is_a_bad_file(changes: dict[str, Any]) -> None:
    with pytest.raises(BadFile, match="not a Heartbeat: "):
        decode(Heartbeat, json.dumps({**vars(BEAT), **changes}).encode())


@pytest.mark.parametrize(
    "changes",
    [{"exit": 3}, {"exit": {}}, {"exit": {"ended_at": "x", "cause": "", "text": ""}}, {"digest": 1}, {"stopping": 0},
     {"exit": {"ended_at": 1, "cause": "c", "text": ["t"]}}, {"started_at": 1e300}],
)  # fmt: skip
def test_a_run_with_a_field_of_another_type_is_a_bad_file(changes: dict[str, Any]) -> None:
    good = {"started_at": 1, "start_mono": 1, "pid": 1, "digest": "d"}
    assert len(decode_runs(json.dumps([good]).encode())) == 1
    with pytest.raises(BadFile):
        decode_runs(json.dumps([good, {**good, **changes}]).encode())


def test_an_error_names_the_field_and_not_its_value() -> None:
    with pytest.raises(BadFile) as caught:
        decode(RunnerSettings, json.dumps({**vars(SETTINGS), "env": {"PASSWORD": ["hunter2"]}}).encode())
    assert str(caught.value) == "not a RunnerSettings: env is a dict or out of range"


def test_numbers_that_are_none_are_not_known() -> None:
    text = encode(BEAT).decode().replace('"loop_mono": 2.0', '"loop_mono": NaN, "update_mono": -Infinity')
    assert decode(Heartbeat, text.encode()) == dataclasses.replace(BEAT, loop_mono=None)
    with pytest.raises(BadFile):
        decode(Heartbeat, text.replace("NaN", "1e999").encode())


def test_a_bots_words_are_one_short_line_and_settings_stay_as_they_are() -> None:
    hostile = "\x1b]0;x\x07 a\nb \u202e \ud800" + "x" * 100_000
    (run,) = decode_runs(
        json.dumps([{**vars(RUNS[0]), "exit": {"ended_at": 1, "cause": hostile, "text": hostile}}]).encode()
    )
    assert run.exit is not None
    for text in (run.exit.text, run.exit.cause):
        assert text.isprintable()
        assert len(text) == 500
    encode((run,))
    assert decode(RunnerSettings, encode(dataclasses.replace(SETTINGS, target="a\n" * 900))).target == "a\n" * 900


def test_no_more_runs_come_out_than_are_kept() -> None:
    assert len(decode_runs(encode(RUNS[:1] * 3000))) == 50


@given(odd(Heartbeat), st.lists(odd(Run) | ODD, max_size=3))
def test_whatever_stands_there_is_harmless_or_a_bad_file(beat: dict[str, Any], items: list[Any]) -> None:
    for read, value in ((lambda data: decode(Heartbeat, data), beat), (decode_runs, items)):
        try:
            found: Any = read(json.dumps(value).encode())
        except BadFile:
            continue
        encode(found)
        if isinstance(found, tuple):
            assert 0.0 <= backoff.wait_s(len(backoff.deaths_in_a_row(found, 1e9, 300.0)), 300.0) <= 300.0


@given(odd(Heartbeat), st.lists(odd(Run), max_size=3), st.sampled_from(["build", "script", "command"]))
def test_no_check_of_ours_and_no_picture_fails_over_what_a_bot_wrote(
    beat: dict[str, Any], items: list[Any], launch: str
) -> None:
    beat = {"pid": PID, "phase": "running", "start_mono": 1, **beat}
    seen = observation(launch=launch, open=frozenset({"deaf", "deaths", "conflicted"}))
    with suppress(BadFile):
        seen = dataclasses.replace(seen, heartbeat=decode(Heartbeat, json.dumps(beat).encode()))
    with suppress(BadFile):
        seen = dataclasses.replace(seen, runs=decode_runs(json.dumps(items).encode()))
    for state in ("running", "quarantined"):
        seen = dataclasses.replace(seen, state=state)
        for hook in (alive, memory, polling):
            assert all(len(found.text) < 600 for found in hook.multibot_check(seen))
        picture = json.dumps(bot_picture(seen, {}, []), allow_nan=False)
        assert len(picture) < 4000


@pytest.mark.parametrize("content", [NESTED, "[]", '{"launch": 3, "memory_limit": "much"}', None])
def test_readers_say_nothing_of_what_is_missing_or_broken(tmp_path: Path, content: str | None) -> None:
    paths = BotPaths(tmp_path / "state", tmp_path / "run", "echo")
    for path in (paths.live, paths.heartbeat, paths.runs):
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is not None:
            path.write_text(content)
    assert (read_heartbeat(paths), read_runs(paths), read_live(paths)) == (None, (), ("unknown", {}))


def test_live_settings_are_finite_numbers(tmp_path: Path) -> None:
    paths = BotPaths(tmp_path, tmp_path, "echo")
    paths.live.parent.mkdir(parents=True)
    paths.live.write_text('{"launch": "build", "a": 1, "b": 2.5, "c": 1e999, "d": NaN, "e": true, "f": -1, "g": "x"}')
    assert read_live(paths) == ("build", {"a": 1, "b": 2.5})
