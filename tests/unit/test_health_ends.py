"""How a process ended that left no word."""

from __future__ import annotations

from dataclasses import replace

import pytest

from multibot_plugin.health.ends import Sight, completed, is_wordless, witnessed
from multibot_plugin.health.judgement import ending
from multibot_runner.protocol import CRASHED, KILLED, STOPPED, Exit, Run

SILENT = Run(1000.0, 10.0, 41, "d")
ALIVE = Run(1100.0, 110.0, 42, "d")
TOLD = replace(SILENT, exit=Exit(1050.0, CRASHED, "ValueError: no", code=1))
BURIED = replace(SILENT, exit=Exit(1101.0, CRASHED, f"{KILLED}; not started again (restart = never)", code=78))


@pytest.mark.parametrize(
    ("sight", "memory", "words"),
    [
        (Sight(1090.0, None, "SIGKILL"), "", "killed by SIGKILL from outside, not by multibot"),
        (Sight(1090.0, None, "SIGKILL"), "probably out of memory", "killed by SIGKILL (probably out of memory)"),
        (Sight(1090.0, None, "SIGSEGV"), "probably out of memory", "killed by SIGSEGV (a crash in C code)"),
        (Sight(1090.0, None, "SIGUSR1"), "", "killed by SIGUSR1"),
        (Sight(1090.0, 7, ""), "", "ended without a word, exit code 7"),
    ],
)
def test_supervisord_and_the_kernel_are_the_witnesses(sight: Sight, memory: str, words: str) -> None:
    for runs in ((ALIVE, SILENT), (ALIVE, BURIED)):
        found = witnessed(runs, ALIVE.pid, sight, memory)
        assert found is not None
        run, end = found
        assert (run, end.text, end.ended_at) == (runs[1], words, 1090.0)
        (_, known) = completed(runs, {(41, 1000.0): end})
        assert known.exit == end
    assert witnessed((SILENT,), None, sight, memory) == (SILENT, end)


@pytest.mark.parametrize(
    ("signal", "told"),
    [("SIGALRM", "killed: it had not ended within its stop_wait_s"), ("SIGKILL", "killed while it was stopping")],
)
@pytest.mark.parametrize("stopping", [True, False])  # it may have had no time to note that
def test_the_end_of_a_stop_that_left_no_word_is_witnessed_as_one(signal: str, told: str, stopping: bool) -> None:
    found = witnessed((ALIVE, replace(SILENT, stopping=stopping)), ALIVE.pid, Sight(1090.0, None, signal, True), "")
    assert found is not None
    assert (found[1].ended_at, found[1].cause, found[1].text) == (1090.0, STOPPED, told)


@pytest.mark.parametrize(
    ("runs", "sight"),
    [
        ((ALIVE, TOLD), Sight(1090.0, 1, "")),  # it told itself
        ((ALIVE, replace(SILENT, stopping=True)), Sight(1090.0, None, "SIGKILL")),  # of a stop
        ((ALIVE, SILENT), Sight(900.0, None, "SIGKILL")),  # of an earlier one
        ((ALIVE, TOLD), Sight(1090.0, 1, "", True)),
        ((ALIVE, SILENT), None), ((ALIVE,), Sight(1090.0, 1, "")), ((), Sight(1090.0, 1, "")),
    ],
)  # fmt: skip
def test_nobody_saw_an_end_or_it_needs_no_witness(runs: tuple[Run, ...], sight: Sight | None) -> None:
    assert witnessed(runs, ALIVE.pid, sight, "") is None


def test_only_what_is_known_of_this_very_run_completes_it() -> None:
    end = Exit(1090.0, CRASHED, "killed by SIGKILL (probably out of memory)")
    assert completed((ALIVE, SILENT), {(41, 999.0): end}) == (ALIVE, SILENT)
    assert completed((TOLD,), {(41, 1000.0): end}) == (TOLD,)
    assert [is_wordless(run) for run in (SILENT, BURIED, TOLD, replace(SILENT, stopping=True))] == [
        True, True, False, False,
    ]  # fmt: skip
    entry = ending("shop", SILENT, end, "h")
    assert (entry.action, entry.bot, entry.at, dict(entry.detail)) == (
        "bot.killed", "shop", 1090.0, {"pid": 41, "cause": end.text},
    )  # fmt: skip
    assert entry.id == ending("shop", SILENT, replace(end, text="another"), "h").id
