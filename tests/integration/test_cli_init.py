"""``multibot init`` for real: what it makes, keeps, refuses."""

from __future__ import annotations

import os
import pwd
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_home import Installation, installation
from postgres import short_directory

from multibot_plugin.cli.reach import why_unreachable
from multibot_plugin.supervisor.conf import parse

ROOT = os.geteuid() == 0


@pytest.fixture
def made() -> Iterator[Installation]:
    with installation() as made:
        yield made


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def snapshot(directory: Path) -> dict[str, bytes]:
    return {str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*")
            if p.is_file() and "postgres" not in p.parts}  # fmt: skip


def test_it_makes_everything_with_the_right_modes_and_can_be_run_again(made: Installation) -> None:
    first = made.run("init")
    home = made.home
    assert (mode(home.state), mode(home.run), mode(home.log), mode(home.rendered.parent)) == (
        0o711,
        0o711,
        0o700,
        0o700,
    )
    assert (mode(home.digest_key), mode(home.toml), mode(home.journal)) == (0o600, 0o600, 0o700)
    assert len(home.digest_key.read_bytes()) == 32
    assert (home.state / "runtime").read_text().strip() == str(home.run)
    assert (home.config / "conf.d").is_dir()
    assert {p.name for p in parse(home.supervisord_conf.read_text(), home)} == {"multibot", "multibot-postgres"}
    assert first.stdout == ""
    assert first.stderr.count("(new)") == 3
    assert first.stderr.rstrip().endswith(f"Next: {home.command('start')}")
    before = snapshot(home.config)
    again = made.run("init", "--yes")
    assert snapshot(home.config) == before
    assert again.stderr.count("(kept)") == 3
    assert "(new)" not in again.stderr


def test_a_closed_umask_does_not_close_what_bots_must_cross() -> None:
    with installation() as made:
        before = os.umask(0o077)
        try:
            made.run("init")
        finally:
            os.umask(before)
        assert (mode(made.home.state), mode(made.home.state / "bots")) == (0o711, 0o711)
        assert mode(made.home.config) == (0o755 if ROOT else 0o700)


def test_a_configuration_changed_by_hand_is_kept_and_said_so(made: Installation) -> None:
    made.run("init")
    conf = made.home.supervisord_conf
    conf.write_text(conf.read_text() + "; mine\n")
    assert "changed by hand" in made.run("init").stderr
    assert conf.read_text().endswith("; mine\n")


def test_an_own_configuration_that_is_out_of_date_is_written_anew(made: Installation) -> None:
    made.run("init")
    made.run("config", "set", "database_url", "postgresql://db.example/x")
    assert "written anew" in made.run("init").stderr
    assert "multibot-postgres" not in made.home.supervisord_conf.read_text()


def test_a_run_that_was_cut_off_is_completed_by_the_next(made: Installation) -> None:
    made.run("init")
    made.home.supervisord_conf.unlink()
    made.home.toml.unlink()
    shutil.rmtree(made.home.postgres_data)
    made.run("start", code=5)
    made.run("init")
    assert made.home.supervisord_conf.is_file()
    assert made.home.postgres_data.is_dir()


def test_a_broken_multibot_toml_is_one_line_and_nothing_is_made(made: Installation) -> None:
    made.home.config.mkdir()
    made.home.toml.write_text("memory_limit = 'plenty'\n")
    done = made.run("init", code=2)
    assert done.stderr == f"multibot: {made.home.toml}: memory_limit 'plenty' is not a size (like 256MB)\n"
    assert [p.name for p in made.home.config.iterdir()] == ["multibot.toml"]


@pytest.mark.root
def test_somebody_elses_home_is_refused(made: Installation) -> None:
    made.home.state.mkdir(parents=True)
    os.chown(made.home.state, 1234, 1234)
    for words in (("init",), ("start",), ("stop",)):
        done = made.run(*words, code=6)
        assert "belongs to user id 1234" in done.stderr
        assert done.stderr.count("\n") == 1


@pytest.mark.root
def test_root_names_the_account_for_the_network_and_how_to_remove_it(made: Installation) -> None:
    done = made.run("init")
    entry = pwd.getpwnam("multibot")
    assert entry.pw_shell.endswith("nologin")
    assert ("userdel multibot" in done.stderr) == ("made the system account multibot " in done.stderr)


@pytest.mark.root
def test_a_home_in_a_closed_directory_is_refused_with_the_remedy() -> None:
    with short_directory() as directory:
        (directory / "closed").mkdir(mode=0o700)
        words = [sys.executable, "-P", "-m", "multibot_plugin.cli", "--home", str(directory / "closed" / "h"), "init"]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert done.returncode == 6
        assert f"cannot enter {directory / 'closed'}" in done.stderr
        assert done.stderr.count("\n") == 1
        assert list((directory / "closed").iterdir()) == []


@pytest.mark.root
def test_an_interpreter_that_others_cannot_execute_is_found_by_executing_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with short_directory() as directory:
        (directory / "venv").mkdir(mode=0o700)
        python = directory / "venv" / "python"
        python.symlink_to(sys.executable)
        assert why_unreachable(70000, directory) is None
        monkeypatch.setattr(sys, "executable", str(python))
        reason = why_unreachable(70000, directory)
        assert reason is not None
        assert f"{directory / 'venv'} is closed to others" in reason
        assert "/opt/multibot" in reason
