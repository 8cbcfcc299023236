from dataclasses import replace

import pytest

from multibot_runner.backoff import deaths_in_a_row, wait_s
from multibot_runner.protocol import CRASHED, FINISHED, MISCONFIGURED, REJECTED, STOPPED, Exit, Run

NOW = 1_800_000_000.0
LONGEST = 300.0


def run(started_ago: float, cause: str | None = CRASHED, lived: float = 1.0) -> Run:
    end = Exit(NOW - started_ago + lived, cause, "") if cause else None
    return Run(NOW - started_ago, 0.0, 1, "0" * 16, exit=end)


def test_the_first_death_costs_no_wait() -> None:
    assert wait_s(deaths_in_a_row((run(2.0),), NOW, LONGEST), LONGEST) == 0.0


def test_without_an_earlier_run_nothing_is_counted() -> None:
    assert deaths_in_a_row((), NOW, LONGEST) == 0


def test_the_wait_doubles_up_to_the_longest() -> None:
    assert [wait_s(n, LONGEST) for n in range(0, 12)] == [0, 0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 300]
    assert wait_s(10**6, LONGEST) == LONGEST


@pytest.mark.parametrize("cause", [STOPPED, REJECTED, MISCONFIGURED])
def test_a_stop_or_a_final_exit_begins_the_tally_anew(cause: str) -> None:
    assert deaths_in_a_row((run(2.0), run(4.0, cause), run(6.0), run(8.0)), NOW, LONGEST) == 1


def test_an_unasked_end_without_error_counts() -> None:
    assert deaths_in_a_row((run(2.0, FINISHED), run(4.0, FINISHED)), NOW, LONGEST) == 2


def test_a_run_killed_without_a_word_counts_but_not_when_it_was_being_stopped() -> None:
    silent = run(4.0, None)
    assert deaths_in_a_row((run(2.0), silent), NOW, LONGEST) == 2
    assert deaths_in_a_row((run(2.0), replace(silent, stopping=True)), NOW, LONGEST) == 1


def test_a_bot_killed_after_days_of_work_starts_again_at_once() -> None:
    runs = (run(86_400.0, None), run(86_402.0), run(86_404.0), run(86_406.0))
    assert deaths_in_a_row(runs, NOW, LONGEST) == 1


def test_a_bot_that_always_dies_at_once_stays_at_the_longest_wait() -> None:
    runs: tuple[Run, ...] = ()
    now, waits = NOW, []
    for _ in range(40):
        waits.append(wait_s(deaths_in_a_row(runs, now, LONGEST), LONGEST))
        died = now + waits[-1] + 1.0
        runs = (Run(now, 0.0, 1, "", exit=Exit(died, CRASHED, "")), *runs)[:50]
        now = died + 0.1
    assert waits[:6] == [0, 0, 1, 2, 4, 8]
    assert waits[11:] == [LONGEST] * 29


def test_a_clock_that_was_set_back_does_no_harm() -> None:
    assert deaths_in_a_row((run(-500.0), run(2.0)), NOW, LONGEST) == 2
