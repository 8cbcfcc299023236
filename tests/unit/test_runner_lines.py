import json
import os
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from multibot_runner.lines import BURST_S, Lines, Throttle
from multibot_runner.logs import Writer

SECRET = "AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw_-9"
TOKEN = f"123456789:{SECRET}"
STAMP = "2026-11-30 14:03:11.123"
NOW = 1000.0


def through(lines: Lines, *pieces: tuple[str, bytes], stamp: str = STAMP) -> bytes:
    return b"".join(lines.feed(stream, data, NOW, stamp) for stream, data in pieces) + lines.release(NOW, stamp)


@contextmanager
def in_zone(monkeypatch: pytest.MonkeyPatch, zone: str) -> Iterator[None]:
    try:
        with monkeypatch.context() as patch:
            patch.setenv("TZ", zone)
            time.tzset()
            yield
    finally:
        time.tzset()


def out(*texts: str) -> list[tuple[str, bytes]]:
    return [("stdout", text.encode()) for text in texts]


def test_a_line_gets_its_time_in_front() -> None:
    assert through(Lines("stamped"), *out("one\n\ntwo\n")) == (f"{STAMP} one\n{STAMP} \n{STAMP} two\n").encode()
    assert through(Lines("plain"), *out("one\ntwo"), stamp="") == b"one\ntwo"


def test_a_line_that_is_open_at_the_end_is_ended_once() -> None:
    lines = Lines("stamped")
    assert through(lines, *out("prompt> ")) == f"{STAMP} prompt> \n".encode()
    assert lines.release(NOW, STAMP) == b""
    assert lines.say("died", STAMP) == f"{STAMP} multibot: died\n".encode()


@pytest.mark.parametrize(
    "line",
    ["2026-11-30 14:03:11,123 INFO x", "[2026-11-30 14:03:11] x", "2026/11/30 14:02:12 x", "2026-11-30T14:04:10.5"],
)
def test_a_line_that_begins_with_its_time_gets_no_other_however_it_is_split(line: str) -> None:
    for cut in range(1, len(line)):
        assert through(Lines("stamped"), *out("a\n", line[:cut], f"{line[cut:]}\n")) == f"{STAMP} a\n{line}\n".encode()
    assert through(Lines("stamped"), *out(*line)) == f"{line}\n".encode()


@pytest.mark.parametrize(
    "line",
    [
        "2001-01-01 00:00:00 said a user", "2099-01-01 00:00:00 said another", "2026-11-30 13:03:11,123 INFO in UTC",
        "2026-11-30 14:02:10 x", "2026-11-30 14:04:12 x", "0000-99-99 99:99:99 x", "9999-12-31 23:59:59 x",
        "2026-11-30T14:03:11Z x", "[2026-11-30 14:03:11,5-0530] x",
    ],
)  # fmt: skip
def test_a_line_that_begins_with_another_time_than_its_own_gets_it_in_front(
    line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with in_zone(monkeypatch, "Europe/Berlin"):
        assert through(Lines("stamped"), *out(f"{line}\n")) == f"{STAMP} {line}\n".encode()


@pytest.mark.parametrize("line", ["2026-11-30T13:03:11.123456789Z x", "2026-11-30 18:33:12+05:30 x"])
def test_a_time_with_its_zone_is_the_lines_own(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with in_zone(monkeypatch, "Europe/Berlin"):
        assert through(Lines("stamped"), *out(f"{line}\n")) == f"{line}\n".encode()


def test_a_partial_line_appears_at_once() -> None:
    lines = Lines("stamped")
    assert lines.feed("stdout", b"Name: ", NOW, STAMP) == f"{STAMP} Name: ".encode()
    assert lines.feed("stdout", b".", NOW, "later") == b"."
    assert lines.feed("stdout", b"2026", NOW, "later") == b"2026"
    assert lines.feed("stdout", b"\n20", NOW, "later") == b"\n"  # it may become a time
    assert lines.feed("stdout", b" %", NOW, "later") == b"later 20 %"


def test_a_line_is_not_glued_to_another_streams() -> None:
    pieces = [("stdout", b"half"), ("stderr", b"error\n"), ("stdout", b" more\n")]
    assert through(Lines("stamped"), *pieces) == f"{STAMP} half\n{STAMP} error\n{STAMP}  more\n".encode()
    assert through(Lines("plain"), *pieces, stamp="") == b"half\nerror\n more\n"
    lines = Lines("stamped")
    lines.feed("stdout", b"half", NOW, STAMP)
    assert lines.say("died", STAMP) == f"\n{STAMP} multibot: died\n".encode()


def test_json_is_an_object_per_line_that_names_its_stream() -> None:
    pieces = [("stdout", b"ha"), ("stderr", "fünf\r\n".encode()), ("stdout", b'lf "x"\n\xff')]
    found = [json.loads(line) for line in through(Lines("json"), *pieces).splitlines()]
    assert found == [
        {"at": STAMP, "stream": "stderr", "line": "fünf"},
        {"at": STAMP, "stream": "stdout", "line": 'half "x"'},
        {"at": STAMP, "stream": "stdout", "line": "\\xff"},
    ]


def test_an_endless_line_in_json_comes_in_pieces_of_whole_characters() -> None:
    data = ("ä" * 20_000).encode()
    written = through(Lines("json"), ("stdout", data[:16_401]), ("stdout", data[16_401:])).splitlines()
    assert len(written) > 1
    assert "".join(json.loads(line)["line"] for line in written) == "ä" * 20_000


def test_the_end_of_a_line_that_was_an_object_already_is_no_object() -> None:
    pieces = [("stdout", b"x" * 17_000), ("stdout", b"\n"), ("stdout", b"\n"), ("stdout", b"y\n")]
    written = through(Lines("json"), *pieces).splitlines()
    assert [json.loads(line)["line"] for line in written] == ["x" * 17_000, "", "y"]


def test_what_is_held_is_little() -> None:
    for form in ("stamped", "json"):
        lines = Lines(form)
        for _ in range(10):
            lines.feed("stdout", b"x" * 10_000, NOW, STAMP)
        assert len(lines._held["stdout"]) <= 16 * 1024


streams = st.sampled_from(["stdout", "stderr"])
texts = st.sampled_from([*"\n 21-:[", STAMP, "2026-11-30 14:0", TOKEN, TOKEN[:20], TOKEN[20:], "ü", "word", "\xff"])


def caught(form: str, rate: int, pieces: Iterable[tuple[str, bytes]], kind: type[Writer] = Writer) -> bytes:
    """Return what a writer makes of these pieces."""
    reader, end = os.pipe()
    try:
        writer = kind([TOKEN], form, rate)
        writer._descriptors = {"stdout": end, "stderr": end}
        for stream, data in pieces:
            writer.write(stream, data)
        writer.release()
        os.close(end)
        return os.read(reader, 65536)
    finally:
        os.close(reader)


def test_what_a_signals_handler_prints_within_a_print_comes_after_it() -> None:
    class Interrupted(Writer):
        signals = iter("x")

        def _stamp(self) -> str:
            for _ in self.signals:
                self.write("stdout", b"handler\n")
            return super()._stamp()

    assert caught("plain", 0, out("before\n", "after\n"), Interrupted) == b"before\nhandler\nafter\n"


class Stopped(Writer):
    """A writer for which no time goes by."""

    def _stamp(self) -> str:
        return "" if self.form == "plain" else STAMP


def pieces_of(text: str, data: st.DataObject) -> list[bytes]:
    whole = text.encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=5)))
    return [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]


@settings(database=None, deadline=None, max_examples=200)
@given(st.lists(texts, max_size=25), st.data())
def test_any_split_of_one_stream_loses_nothing_shows_no_secret_and_stamps_each_line_once(
    words: list[str], data: st.DataObject
) -> None:
    text = "".join(words)
    # One token that runs into the next is redacted in either case, but where the first ends depends on the pieces.
    assume(not re.search(r"\d:[A-Za-z0-9_-]{30,}:", text))
    plain = caught("plain", 0, [("stdout", text.encode())])
    pieces = [("stdout", piece) for piece in pieces_of(text, data)]
    stamped, objects = caught("stamped", 0, pieces, Stopped), caught("json", 0, pieces)
    assert SECRET.encode() not in stamped + objects + plain
    moment = rb"\[?\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"
    lines = plain.splitlines()
    assert stamped[-1:] in (b"", b"\n")
    zone = re.compile(re.escape(STAMP.encode()) + rb"[+-][01]\d:?[0-5]\d")  # then it is another time
    for was, line in zip(lines, stamped.splitlines(), strict=True):
        now = was.startswith(STAMP.encode()) and not zone.match(was)
        assert line == was if now else line in (STAMP.encode() + b" " + was, was)
        assert line != was or re.match(moment, was)
    assert [json.loads(line)["line"] for line in objects.splitlines()] == [line.decode() for line in lines]


@settings(database=None, deadline=None)
@given(st.lists(st.tuples(streams, st.lists(texts, max_size=4).map("".join)), max_size=12))
def test_two_streams_are_never_mixed_within_a_line(pieces: list[tuple[str, str]]) -> None:
    marked = [(stream, text.replace("word", stream)) for stream, text in pieces]
    for form in ("plain", "stamped"):
        for line in caught(form, 0, [(stream, text.encode()) for stream, text in marked]).split(b"\n"):
            assert not (b"stdout" in line and b"stderr" in line)


class Flood:
    """A throttle of 1000 bytes a second, and lines of 100 bytes."""

    def __init__(self) -> None:
        self.lines = Lines("plain", 1000)
        self.now = NOW

    def write(self, count: int, over_s: float) -> list[str]:
        """Write lines evenly for a time; return what stands in the log."""
        out = b""
        for _ in range(count):
            self.now += over_s / count
            out += self.lines.feed("stdout", b"x" * 99 + b"\n", self.now, "")
        return [line if line.startswith("multibot") else "x" for line in out.decode().splitlines()]


def test_a_burst_passes_and_what_is_within_the_rate() -> None:
    flood = Flood()
    assert flood.write(100, 0.1) == ["x"] * 100
    assert flood.write(80, 10.0) == ["x"] * 80


def test_a_flood_is_cut_in_whole_lines_and_told_at_once_and_when_it_is_over() -> None:
    flood = Flood()
    seen = flood.write(500, 5.0)
    begun = "multibot: more is written than log_rate 1000B/s: lines are left out from here on"
    assert seen[-1] == begun
    passed = len(seen) - 1
    assert 100 <= passed <= 151
    told = flood.write(2, 4.0)
    assert told == [f"multibot: {500 - passed} lines ({(500 - passed) / 10.24:.1f} KB) not logged in 4 s: "
                    "more than log_rate 1000B/s", "x", "x"]  # fmt: skip


def test_a_lasting_flood_is_told_every_ten_seconds_and_logged_in_part() -> None:
    flood = Flood()
    seen = flood.write(10_000, 100.0)
    told = [line for line in seen if "not logged in" in line]
    assert 7 <= len(told) <= 10
    assert all("not logged in 10 s" in line for line in told)
    assert seen.count("x") * 100 <= 1000 * (100 + 10)
    assert seen.count("x") * 100 >= 1000 * 80


@settings(database=None, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 12), st.integers(1, 4000)), max_size=60))
def test_whatever_comes_no_more_is_logged_than_the_rate_allows_and_all_is_logged_or_counted(
    written: list[tuple[float, int]],
) -> None:
    throttle, now, logged, told = Throttle(1000), NOW, 0, 0

    def count(text: str) -> int:
        found = re.match(r"[\d,]+ lines? \(([\d.]+) (K?)B\)", text)
        return round(float(found[1]) * (1024 if found[2] else 1)) if found else 0

    for pause_s, size in written:
        now += pause_s
        admitted, text = throttle.admit(b"x" * size, size, now)
        logged += size * admitted
        told += count(text)
        assert logged <= 1000 * (now - NOW + BURST_S) + 4000
    told += count(throttle.tell(now))
    whole = sum(size for _, size in written)
    assert abs(logged + told - whole) <= 52 * len(written)  # it is told in tenths of a KB


def test_the_time_before_a_line_counts() -> None:
    lines, written = Lines("stamped", 1000), b""
    for _ in range(5000):
        written += lines.feed("stdout", b"\n", NOW, STAMP)
    assert 10_000 <= len(written) <= 10_600


def test_a_line_without_an_end_is_throttled_too() -> None:
    lines, now, size = Lines("plain", 1000), NOW, 0
    for _ in range(1000):
        now += 0.1
        size += len(lines.feed("stdout", b"x" * 1000, now, ""))
    assert size <= 1000 * 125


def test_the_rest_of_a_dropped_line_is_dropped_with_it() -> None:
    lines = Lines("plain", 1000)
    lines.feed("stdout", b"x" * 20_000 + b"\n", NOW, "")
    assert b"half" not in lines.feed("stdout", b"half", NOW + 1, "")
    assert lines.feed("stdout", b" of", NOW + 30, "") == b""
    assert lines.feed("stdout", b" a line\n", NOW + 30, "") == b""
    assert lines.feed("stdout", b"whole\n", NOW + 30, "") == (
        b"multibot: 1 line (15 B) not logged in 29 s: more than log_rate 1000B/s\nwhole\n"
    )


def test_what_was_not_told_is_told_at_the_end_and_the_runner_is_never_throttled() -> None:
    lines = Lines("plain", 1000)
    lines.feed("stdout", b"x" * 20_000 + b"\n", NOW, "")
    lines.feed("stdout", b"y\n", NOW, "")
    assert lines.say("died", "") == b"multibot: died\n"
    assert lines.release(NOW + 2, "") == b"multibot: 1 line (2 B) not logged in 1 s: more than log_rate 1000B/s\n"
    assert lines.release(NOW + 2, "") == b""


def test_a_forked_child_says_nothing_of_its_parents() -> None:
    lines = Lines("stamped", 1000)
    lines.feed("stdout", b"x" * 20_000 + b"\ny\n20", NOW, STAMP)
    lines.forget()
    assert lines.release(NOW, STAMP) == b""
