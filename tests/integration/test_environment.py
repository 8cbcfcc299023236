"""``make`` finds an interpreter that the bots can run, or says in one line what is missing."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def clone() -> Iterator[Path]:
    """As much of a clone as the script looks at, where every user can go (pytest's own directories are closed)."""
    with tempfile.TemporaryDirectory(prefix="mbe-", dir="/tmp") as name:
        directory = Path(name)
        directory.chmod(0o755)
        (directory / "demo").mkdir()
        shutil.copy(ROOT / "demo" / "environment.sh", directory / "demo")
        for file in ("setup.cfg", "pyproject.toml"):
            shutil.copy(ROOT / file, directory)
        (directory / "runner").mkdir()
        yield directory


def interpreter(path: Path, body: str) -> Path:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


def run(clone: Path, python: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"MULTIBOT_PYTHON": str(python)}
    return subprocess.run(["sh", "demo/environment.sh"], cwd=clone, env=environment, capture_output=True, text=True)


def test_a_missing_python3_venv_is_one_clear_line(clone: Path) -> None:
    fake = interpreter(clone / "python", 'case "$*" in *ensurepip*) exit 1;; esac; exec /usr/bin/python3 "$@"')
    done = run(clone, fake)
    assert done.returncode == 1
    assert done.stderr == f"make: {fake} cannot make virtual environments: apt-get install python3-venv\n"
    assert not (clone / ".venv").exists()


@pytest.mark.parametrize("body", ["exit 1", "exec /bin/false"])
def test_an_interpreter_that_does_not_work_is_one_clear_line(clone: Path, body: str) -> None:
    done = run(clone, interpreter(clone / "python", body))
    assert done.returncode == 1
    assert done.stderr.startswith("make: no Python 3.11 or later that every user can execute")
    assert done.stderr.count("\n") == 1


@pytest.mark.root
def test_an_interpreter_that_other_user_ids_cannot_reach_is_not_taken(clone: Path) -> None:
    closed = clone / "closed"
    closed.mkdir(mode=0o700)
    done = run(clone, interpreter(closed / "python", 'exec /usr/bin/python3 "$@"'))
    assert done.returncode == 1
    assert "every user can execute" in done.stderr


@pytest.mark.parametrize(("venv", "line"), [("$(pwd -P)/.venv", ".venv"), ("/elsewhere/venv", "/elsewhere/venv")])
def test_make_environment_prints_the_command_that_enters_it(clone: Path, venv: str, line: str) -> None:
    shutil.copy(ROOT / "Makefile", clone)
    (clone / "demo" / "environment.sh").write_text(f'mkdir -p build; echo "VENV={venv}" > build/environment\n')
    outside = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}  # of `make test`
    done = subprocess.run(["make", "environment"], cwd=clone, env=outside, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == (f". {line}/bin/activate\n", "")
