"""Keys, locks, leftovers and damage in the state directory."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from multibot_plugin.bots.config import BotConfig, Deployment, deploy
from multibot_plugin.bots.files import (
    changing,
    owner_of,
    read_deployment,
    read_key,
    read_text,
    sweep,
    translated,
    write_bot,
    write_key,
)
from multibot_plugin.bots.render import section_of
from multibot_plugin.errors import BadValue, MultibotError, Refused
from multibot_plugin.home import Home
from multibot_plugin.settings import load
from multibot_runner.protocol import FILE_CAP

TOKEN = "123456:AAabcdefghijklmnopqrstuvwxyz0123456"
ME = (os.geteuid(), os.getegid())


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = Home(tmp_path, tmp_path / "state", tmp_path / "run", tmp_path / "log")
    for directory in (made.state, made.log):
        directory.mkdir()
    return made


def bot(target: str = "/bin/true", **changes: object) -> Deployment:
    config = BotConfig("echo", True, "command", target, TOKEN, env={"A": "1"}, **changes)  # type: ignore[arg-type]
    return deploy(config, load(Path("/nonexistent"), environ={}), b"key")


def test_the_key_is_made_once_and_kept(home: Home) -> None:
    first = read_key(home)
    assert len(first) == 32
    assert read_key(home) != first  # nothing is written by looking
    write_key(home, first)
    write_key(home, first)
    assert read_key(home) == first
    assert stat.S_IMODE(home.digest_key.stat().st_mode) == 0o600
    with pytest.raises(Refused, match="key changed"):
        write_key(home, b"another")


def test_a_key_that_cannot_be_trusted_is_not_replaced_silently(home: Home) -> None:
    home.digest_key.symlink_to("/etc/hostname")
    with pytest.raises(MultibotError, match="digests are made with"):
        read_key(home)


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_key_of_another_length_is_refused_with_the_remedy(home: Home, size: int) -> None:
    home.digest_key.write_bytes(b"k" * size)
    with pytest.raises(MultibotError, match=r"damaged .* restore it from a backup, or remove it"):
        read_key(home)


def test_settings_that_the_runner_would_not_read_are_refused() -> None:
    config = BotConfig("echo", True, "command", "/bin/true", TOKEN, env={"A": "x" * FILE_CAP})
    with pytest.raises(BadValue, match="larger than 256 KiB"):
        deploy(config, load(Path("/nonexistent"), environ={}), b"key")


def test_what_was_written_reads_back_and_a_second_writing_changes_no_file(home: Home) -> None:
    deployment = bot()
    write_bot(home, deployment, ME)
    assert read_deployment(home, section_of(deployment)) == deployment
    paths = sorted(home.bot("echo").state_dir.iterdir())
    before = [path.stat().st_ino for path in paths]
    write_bot(home, deployment, ME)
    assert [path.stat().st_ino for path in paths] == before


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"7", b"\xff"])
def test_damaged_files_are_no_deployment_and_are_written_anew(home: Home, content: bytes) -> None:
    deployment = bot()
    write_bot(home, deployment, ME)
    paths = home.bot("echo")
    for path in (paths.settings(deployment.digest), paths.live):
        path.chmod(0o600)
        path.write_bytes(content)
        assert read_deployment(home, section_of(deployment)) is None
        write_bot(home, deployment, ME)
        assert read_deployment(home, section_of(deployment)) == deployment
    assert stat.S_IMODE(paths.settings(deployment.digest).stat().st_mode) == 0o400


def test_the_sweep_takes_what_nothing_names_and_leaves_the_rest(home: Home) -> None:
    old, new, gone = bot("/bin/false"), bot(), home.bot("gone").state_dir
    for deployment in (old, new):
        write_bot(home, deployment, ME)
    directory = home.bot("echo").state_dir
    gone.mkdir()
    for path in (directory / ".left.tmp", directory / "notes.txt", gone / "live.json", gone / f"{'0' * 16}.token"):
        path.touch()
    (directory / "work").mkdir()
    (directory / "work" / f"{'0' * 16}.json").touch()
    (home.state / "bots" / "a-file").touch()
    sweep(home, [section_of(new)], spare=["echo", "gone"])
    assert home.bot("echo").token(old.digest).exists()
    assert len(list(gone.iterdir())) == 2
    sweep(home, [section_of(new)])
    assert sorted(path.name for path in directory.iterdir()) == sorted(
        [f"{new.digest}.json", f"{new.digest}.token", "live.json", "notes.txt", "work"]
    )
    assert len(list((directory / "work").iterdir())) == 1
    assert list(gone.iterdir()) == []


def test_a_second_writer_waits_and_then_is_refused(home: Home) -> None:
    again = changing(home.state / "lock", wait_s=0.1)
    with changing(home.state / "lock"), pytest.raises(Refused, match="another multibot"), again:
        raise AssertionError
    with changing(home.state / "lock", wait_s=0):
        pass


def test_what_the_system_refuses_is_one_line() -> None:
    with pytest.raises(MultibotError, match="cannot write /x: Permission denied"), translated():
        raise PermissionError(errno.EACCES, "Permission denied", "/x")
    with pytest.raises(MultibotError, match="cannot write the bots' files: No space left"), translated():
        raise OSError(errno.ENOSPC, "No space left on device")


def test_text_that_is_not_utf8_can_be_read_and_a_missing_file_is_empty(home: Home) -> None:
    assert read_text(home.state / "nothing") == ""
    (home.state / "file").write_bytes(b"a\xffb")
    assert read_text(home.state / "file") == "a�b"
    with pytest.raises(MultibotError):
        read_text(home.state)


def test_an_own_user_id_owns_the_files_only_where_it_can_be_had() -> None:
    owner = owner_of(bot(uid=70007))
    assert owner == ((70007, 70007) if os.geteuid() == 0 else ME)
