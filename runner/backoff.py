"""How long a bot waits before it starts again. Pure."""

from __future__ import annotations

from typing import Tuple

from multibot_runner.protocol import Run

WINDOW_S = 600.0


def deaths_in_a_row(runs: Tuple[Run, ...], now_at: float, longest_s: float, window_s: float = WINDOW_S) -> int:
    """Return how many deaths count for the start at ``now_at`` (seconds since the epoch).

    ``runs`` are the earlier runs, newest first; ``longest_s`` is ``backoff_max_s``. A stop or a final exit begins the
    tally anew, and so does a run that worked for longer than ``window_s``: its own death is the first. The wait
    before a run is no work, or the tally would fall apart as soon as the waits get as long as the window.
    """
    tally = 0
    for index in range(len(runs) - 1, -1, -1):
        run = runs[index]
        if not run.died:
            tally = 0
            continue
        # Killed without a word: it lived until the next start at the latest.
        ended_at = run.exit.ended_at if run.exit else runs[index - 1].started_at if index else now_at
        worked_s = ended_at - run.started_at - wait_s(tally, longest_s)
        tally = 1 if worked_s > window_s else tally + 1
    return tally


def wait_s(deaths: int, longest_s: float) -> float:
    """Return the seconds to wait after so many deaths in a row: 0, 0, 1, 2, 4 ... up to ``longest_s``."""
    return min(2.0 ** min(deaths - 2, 30), longest_s) if deaths > 1 else 0.0
