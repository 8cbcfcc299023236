from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from multibot_runner import sudden

PYTHON = sys.executable


def start(launch: str, target: str) -> Any:
    return SimpleNamespace(settings=SimpleNamespace(launch=launch, target=target))


@pytest.mark.parametrize(
    ("target", "words", "itself"),
    [
        ("{bot}", ["{bot}"], True),
        ("{bot} --fast", ["{link}", "--fast"], True),
        ("{bot} --fast", ["{bot}"], False),
        ("{bot}", ["{bot}", "--again"], False),
        ("{bot}", ["{other}"], False),
        ("{bot}", ["-c", "pass"], False),
        ("{bot}", [*sys.orig_argv[1:]], True),
        ("{bot}", [], False),
        ("-m shop --fast", ["-m", "shop", "--fast"], True),
        ("-m shop --fast", ["{main}", "--fast"], True),
        ("-m shop", ["-m", "other"], False),
        ("{bot}:build", ["{bot}"], True),
        ("{bot}:build", ["{bot}:build"], True),
    ],
)
def test_what_is_the_bot_itself_is_told_from_any_other_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, words: list[str], itself: bool
) -> None:
    names = {name: str(tmp_path / f"{name}.py") for name in ("bot", "other", "link", "main")}
    for name in ("bot", "other", "main"):
        Path(names[name]).touch()
    Path(names["link"]).symlink_to(names["bot"])
    monkeypatch.setitem(sys.modules, "__main__", SimpleNamespace(__file__=names["main"]))
    launch = start("build" if target.endswith(":build") else "script", target.format(**names))
    argv = ["python", *(word.format(**names) for word in words)]
    assert sudden._is_itself(PYTHON, argv, launch) is itself
    assert not sudden._is_itself("/bin/sh", argv, launch)
    if words in (["{bot}"], ["{link}", "--fast"]):  # by its own first line
        assert sudden._is_itself(argv[1], ["bot", *argv[2:]], launch) is itself


@pytest.mark.parametrize(
    ("path", "argv"), [("/nonexistent", ["x"]), (None, ["x"]), (PYTHON, [None, None]), (PYTHON, 7)]
)
def test_what_nobody_could_execute_is_left_to_the_system(path: Any, argv: Any) -> None:
    assert not sudden._is_itself(path, argv, start("script", "/srv/bot.py"))
