import math
from dataclasses import replace

import pytest

from multibot_runner.backoff import Pause, before_start, deaths_in_a_row, wait_s
from multibot_runner.protocol import (
    BACKING_OFF,
    CRASHED,
    EXIT_FINISHED,
    FINISHED,
    GAVE_UP,
    MISCONFIGURED,
    QUARANTINED,
    REJECTED,
    RUNNING,
    STOPPED,
    UNREACHABLE,
    Exit,
    Run,
    RunnerSettings,
)

NOW = 1_800_000_000.0
LONGEST = 300.0
RESET = 600.0
SETTINGS = RunnerSettings(
    bot="shop", launch="script", target="/bot.py", token_var="BOT_TOKEN", env={}, env_file="", workdir="", python="",
    uid=None, user="", bot_api_url="http://127.0.0.1:9", stop_wait_s=5.0, poll_timeout_s=5.0, backoff_max_s=LONGEST,
    backoff_reset_s=RESET, quarantine_after=10, quarantine_retry_s=3600.0,
)  # fmt: skip


def run(started_ago: float, cause: str | None = CRASHED, lived: float = 1.0, waited_s: float = 0.0) -> Run:
    end = Exit(NOW - started_ago + lived, cause, "ValueError: no") if cause else None
    return Run(NOW - started_ago, 0.0, 1, "0" * 16, exit=end, waited_s=waited_s)


def deaths(*runs: Run) -> int:
    return len(deaths_in_a_row(runs, NOW, RESET))


def test_the_first_death_costs_no_wait() -> None:
    assert before_start((run(2.0),), SETTINGS, NOW, 0.5) == Pause(RUNNING, 0.0, "died once, last: ValueError: no")


def test_without_an_earlier_run_nothing_is_counted() -> None:
    assert before_start((), SETTINGS, NOW, 0.5) == Pause(RUNNING)


def test_the_wait_doubles_up_to_the_longest() -> None:
    assert [wait_s(n, LONGEST) for n in range(0, 12)] == [0, 0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 300]
    assert wait_s(10**6, LONGEST) == LONGEST


def test_a_wait_is_up_to_a_quarter_shorter_so_that_bots_that_died_together_do_not_come_back_together() -> None:
    died = tuple(run(2.0 * n) for n in range(1, 6))
    waits = [before_start(died, SETTINGS, NOW, luck).wait_s for luck in (0.0, 0.5, 1.0)]
    assert waits == [8.0, 7.0, 6.0]
    assert before_start(died, SETTINGS, NOW, 0.0).phase == BACKING_OFF


@pytest.mark.parametrize("cause", [STOPPED, REJECTED, MISCONFIGURED, GAVE_UP])
def test_a_stop_or_a_final_exit_begins_the_tally_anew(cause: str) -> None:
    assert deaths(run(2.0), run(4.0, cause), run(6.0), run(8.0)) == 1


def test_an_unasked_end_without_error_counts_unless_it_is_well() -> None:
    assert deaths(run(2.0, FINISHED), run(4.0, FINISHED)) == 2
    well = replace(run(2.0), exit=Exit(NOW, FINISHED, "", code=EXIT_FINISHED))
    assert deaths(well, run(4.0)) == 0


def test_a_run_killed_without_a_word_counts_but_not_when_it_was_being_stopped() -> None:
    silent = run(4.0, None)
    assert deaths(run(2.0), silent) == 2
    assert deaths(run(2.0), replace(silent, stopping=True)) == 1


def test_a_bot_killed_after_days_of_work_starts_again_at_once() -> None:
    assert deaths(run(86_400.0, None), run(86_402.0), run(86_404.0), run(86_406.0)) == 1


def test_a_wait_is_no_work() -> None:
    assert deaths(run(700.0, lived=650.0, waited_s=300.0), run(800.0)) == 2
    assert deaths(run(700.0, lived=650.0, waited_s=30.0), run(800.0)) == 1


def test_a_bot_that_always_dies_at_once_is_quarantined_and_tried_once_each_time() -> None:
    runs: tuple[Run, ...] = ()
    now, pauses = NOW, []
    for _ in range(16):
        pauses.append(before_start(runs, SETTINGS, now, 0.0))
        waited = pauses[-1].wait_s
        died = now + waited + 1.0
        runs = (Run(now, 0.0, 1, "", exit=Exit(died, CRASHED, "no"), waited_s=waited), *runs)[:50]
        now = died + 0.1
    assert [pause.wait_s for pause in pauses[:10]] == [0, 0, 1, 2, 4, 8, 16, 32, 64, 128]
    assert {(pause.phase, pause.wait_s) for pause in pauses[10:]} == {(QUARANTINED, 3600.0)}
    assert pauses[10].text == "died 10 times in a row, last: no"


def test_quarantine_may_be_for_ever_or_never() -> None:
    died = tuple(run(2.0 * n) for n in range(1, 31))
    assert math.isinf(before_start(died, replace(SETTINGS, quarantine_retry_s=0.0), NOW, 0.0).wait_s)
    never = before_start(died, replace(SETTINGS, quarantine_after=0), NOW, 0.0)
    assert (never.phase, never.wait_s) == (BACKING_OFF, LONGEST)


def test_a_bot_that_telegram_does_not_answer_backs_off_and_is_never_quarantined_for_it() -> None:
    away = tuple(run(2.0 * n, UNREACHABLE) for n in range(1, 31))
    pause = before_start(away, SETTINGS, NOW, 0.0)
    assert (pause.phase, pause.wait_s) == (BACKING_OFF, LONGEST)
    own = tuple(run(100.0 + n) for n in range(9))
    assert before_start((*away, *own), SETTINGS, NOW, 0.0).phase == BACKING_OFF
    assert before_start((run(1.0), *away, *own), SETTINGS, NOW, 0.0).phase == QUARANTINED


def test_a_clock_that_was_set_back_does_no_harm() -> None:
    assert deaths(run(-500.0), run(2.0)) == 2
