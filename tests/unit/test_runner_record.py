"""What a runner writes down where hardly anything can be written."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from multibot_runner import record
from multibot_runner.protocol import CRASHED, BotPaths, Exit
from multibot_runner.readers import read_heartbeat, read_runs


def full(*arguments: object, **options: object) -> NoReturn:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_on_a_full_disk_the_heartbeat_goes_into_the_file_that_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = BotPaths(tmp_path, tmp_path, "greeter")
    paths.run_dir.mkdir(parents=True)
    recorder = record.Recorder(paths, 1.0)
    with monkeypatch.context() as patch:
        patch.setattr(record, "replace_file", full)
        recorder.write()  # there is none yet: no failure reaches the bot
    assert read_heartbeat(paths) is None
    recorder.update(poll_code=409, poll_failure_mono=123456.789)
    monkeypatch.setattr(record, "replace_file", full)
    longer, shorter = (
        {"poll_code": 500, "poll_success_mono": 654321.987},
        {"poll_code": None, "poll_failure_mono": None},
    )
    for changes in (longer, shorter):
        recorder.update(**changes)
        assert read_heartbeat(paths) == recorder.heartbeat


@pytest.fixture
def recorder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> record.Recorder:
    monkeypatch.setattr(record._thread, "start_new_thread", lambda *arguments: None)  # none that outlives a test
    paths = BotPaths(tmp_path, tmp_path, "greeter")
    paths.run_dir.mkdir(parents=True)
    return record.Recorder(paths, 1.0)


def test_where_no_heartbeat_can_be_written_the_log_says_so_once_and_the_directory_is_made_anew(
    recorder: record.Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(record.logs, "say", said.append)
    for code in (500, 502):
        recorder.paths.run_dir.rmdir()
        recorder.update(poll_code=code)
        assert read_heartbeat(recorder.paths) is None
    where = recorder.paths.heartbeat
    assert said == [f"no heartbeat, so multibot sees nothing of this bot: {where}: No such file or directory"]
    recorder.update(poll_code=None)
    assert read_heartbeat(recorder.paths) == recorder.heartbeat
    assert recorder.paths.run_dir.stat().st_mode & 0o777 == 0o700


def test_on_a_full_disk_the_tally_goes_on_in_the_file_that_is_there_without_its_oldest_runs(
    recorder: record.Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = recorder.paths
    recorder.begin("digest-0")
    monkeypatch.setattr(record, "replace_file", full)
    for number in range(1, 40):
        recorder.begin(f"digest-{number}")
        recorder.finish(Exit(float(number), CRASHED, "RuntimeError: no luck " * 3, code=1))
        runs = read_runs(paths)
        assert runs[0].exit is not None
        assert [run.digest for run in runs] == [f"digest-{number - i}" for i in range(len(runs))]
    assert 5 < len(runs) < 39


def test_however_busy_a_bot_is_it_costs_one_file_per_beat_and_some_more(
    recorder: record.Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[bytes] = []
    monkeypatch.setattr(record, "replace_file", lambda path, data, **options: written.append(data))
    monkeypatch.setattr("time.monotonic", lambda: recorder._credited_mono)  # all within one moment
    for _ in range(500):
        recorder.poll_started(10.0)
        recorder.poll_succeeded(3)
        recorder.sent()
        recorder.handled(3, 0.1)
    assert len(written) == 20
    for count in (21, 22):
        recorder.beat()
        assert len(written) == count
    assert b'"handled_count": 1500' in written[-1]
    recorder.poll_failed(409)
    assert len(written) == 23


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch, recorder: record.Recorder) -> list[Callable[[], None]]:
    """A recorder that has written so much that others have to wait; returned: the threads that it would start."""
    started: list[Callable[[], None]] = []
    monkeypatch.setattr(record, "_REST_S", 0.0)
    monkeypatch.setattr(record._thread, "start_new_thread", lambda run, arguments: started.append(run))
    monkeypatch.setattr("time.monotonic", lambda: recorder._credited_mono)
    for _ in range(20):
        recorder.update(oldest_update_mono=5.0)
    return started


def test_that_no_update_waits_any_more_is_written_at_once(
    recorder: record.Recorder, late: list[Callable[[], None]]
) -> None:
    recorder.handled(1, 0.1)
    recorder.update(oldest_update_mono=None)
    found = read_heartbeat(recorder.paths)
    assert found is not None
    assert (found.oldest_update_mono, found.handled_count) == (None, 1)


def test_what_a_bot_without_a_loop_leaves_unwritten_is_written_by_and_by(
    recorder: record.Recorder, late: list[Callable[[], None]]
) -> None:
    for _ in range(2):
        for _ in range(10):
            recorder.sent()
        (write,) = late
        late.clear()
        assert read_heartbeat(recorder.paths) != recorder.heartbeat
        write()
        assert read_heartbeat(recorder.paths) == recorder.heartbeat
    recorder.beat()
    recorder.sent()
    assert late == []  # the next beat has it


def test_who_writes_by_and_by_does_so_beside_the_bot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "_REST_S", 0.0)
    recorder = record.Recorder(BotPaths(tmp_path, tmp_path, "greeter"), 1.0)
    recorder.paths.run_dir.mkdir(parents=True)
    recorder._credit = 0.0
    recorder.sent()
    while read_heartbeat(recorder.paths) != recorder.heartbeat:
        time.sleep(0.01)


def test_where_no_thread_can_be_started_the_next_one_is_tried(
    recorder: record.Recorder, late: list[Callable[[], None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> NoReturn:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(record._thread, "start_new_thread", refuse)
        recorder.sent()
    recorder.sent()
    assert len(late) == 1


def test_a_watchdog_that_is_fed_in_time_looks_so_however_much_was_written(
    recorder: record.Recorder, late: list[Callable[[], None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder.update(watchdog_s=8.0)
    for fed, written in ((50.0, 50.0), (51.0, 50.0), (53.0, 53.0), (54.0, 53.0), (45.0, 45.0)):  # last: a trigger
        recorder.update(watchdog_mono=fed, status=f"at {fed}")
        found = read_heartbeat(recorder.paths)
        assert found is not None
        assert (found.watchdog_mono, found.status) == (written, f"at {written}")


def test_threads_of_a_bot_lose_nothing_and_a_stop_stays_one(recorder: record.Recorder) -> None:
    def work() -> None:
        for _ in range(300):
            recorder.delivered(1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    recorder.stop()
    for thread in threads:
        thread.join()
    assert recorder.heartbeat.update_count == 1200
    assert recorder.heartbeat.phase == "stopping"
