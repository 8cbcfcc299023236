"""What a runner writes down where hardly anything can be written."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import NoReturn

import pytest

from multibot_runner import record
from multibot_runner.protocol import BotPaths
from multibot_runner.readers import read_heartbeat


def test_on_a_full_disk_the_heartbeat_goes_into_the_file_that_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object, **options: object) -> NoReturn:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

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
