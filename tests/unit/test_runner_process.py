import os
from pathlib import Path

import pytest

from multibot_runner import outcome
from multibot_runner.outcome import Misconfigured
from multibot_runner.process import read_env_file
from multibot_runner.protocol import CRASHED, EXIT_FINAL, FINISHED, MISCONFIGURED, REJECTED


def test_an_env_file_is_lines_of_key_and_value(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text("# comment\n\nA=1\nexport B = two words \nC=\"quoted # 'x'\"\nD='single'\nE=\nF=a=b\n")
    assert read_env_file(str(file)) == {
        "A": "1",
        "B": "two words",
        "C": "quoted # 'x'",
        "D": "single",
        "E": "",
        "F": "a=b",
    }


def test_an_env_file_that_is_wrong_is_named_with_the_line_and_without_the_value(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text("A=1\nsecret-without-equals\n")
    with pytest.raises(Misconfigured) as caught:
        read_env_file(str(file))
    assert str(caught.value) == f"env file {file}, line 2: not KEY=VALUE"
    with pytest.raises(Misconfigured, match="No such file"):
        read_env_file(str(tmp_path / "absent"))
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(Misconfigured, match="not UTF-8"):
        read_env_file(str(file))


def test_no_env_file_is_no_variables() -> None:
    assert read_env_file("") == {}


def test_the_text_of_a_crash_is_the_line_that_python_prints_last() -> None:
    def text_of(source: str) -> str:
        try:
            exec(compile(source, "bot.py", "exec"))
        except BaseException as error:
            return outcome.crashed(error).text
        raise AssertionError

    assert text_of("import absent_module") == "ModuleNotFoundError: No module named 'absent_module'"
    assert text_of("def f(:") == "SyntaxError: invalid syntax"
    assert text_of("raise ValueError('one\\ntwo')") == "ValueError: one"
    assert text_of("raise KeyError('x' * 1000)").endswith("…")
    assert text_of(f"raise RuntimeError('bad 123456:{'A' * 35}')") == "RuntimeError: bad 123456:<redacted>"


def test_the_cause_follows_from_the_way_it_ended() -> None:
    assert outcome.ended(0).cause == FINISHED
    assert (outcome.ended(3).cause, outcome.ended(3).code) == (CRASHED, 3)
    assert outcome.ended(EXIT_FINAL).cause == MISCONFIGURED
    assert (outcome.rejected(401).cause, outcome.rejected(401).code) == (REJECTED, EXIT_FINAL)
    assert outcome.killed(11).text == "killed by SIGSEGV"
    assert outcome.killed(64 + 50).text == "killed by signal 114"


def test_importing_the_runner_changes_nothing_in_this_process() -> None:
    import signal
    import sys

    before = (sys.stdout, signal.signal, signal.getsignal(signal.SIGTERM), os.getcwd(), list(sys.meta_path))
    import multibot_runner.build
    import multibot_runner.command
    import multibot_runner.main
    import multibot_runner.script  # noqa: F401

    assert before == (sys.stdout, signal.signal, signal.getsignal(signal.SIGTERM), os.getcwd(), list(sys.meta_path))
