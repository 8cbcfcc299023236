"""When a bot that died starts again. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import List, Tuple

from multibot_runner.protocol import BACKING_OFF, KILLED, QUARANTINED, RUNNING, UNREACHABLE, Run, RunnerSettings

_JITTER = 0.25  # of a wait: what failed together (the network) shall not come back in one moment


@dataclass(frozen=True)
class Pause:
    """What comes before a start: ``phase`` RUNNING (nothing), BACKING_OFF or QUARANTINED, and for how long.

    ``wait_s`` infinite: until a person starts it. ``text``: why, for people.
    """

    phase: str
    wait_s: float = 0.0
    text: str = ""


def before_start(runs: Tuple[Run, ...], settings: RunnerSettings, now_at: float, luck: float) -> Pause:
    """Return what comes before the start at ``now_at`` (seconds since the epoch).

    ``runs``: the earlier runs, newest first; ``luck``: a random number from 0 to 1.
    """
    died = deaths_in_a_row(runs, now_at, settings.backoff_reset_s)
    deaths, own = len(died), sum(not run.exit or run.exit.cause != UNREACHABLE for run in died)
    if not deaths:
        return Pause(RUNNING)
    times = "once" if deaths == 1 else f"{deaths} times in a row"
    text = f"died {times}, last: {runs[0].exit.text if runs[0].exit else KILLED}"
    if 0 < settings.quarantine_after <= own:
        return Pause(QUARANTINED, settings.quarantine_retry_s or math.inf, text)
    pause_s = wait_s(deaths, settings.backoff_max_s) * (1 - _JITTER * luck)
    return Pause(BACKING_OFF if pause_s else RUNNING, pause_s, text)


def deaths_in_a_row(runs: Tuple[Run, ...], now_at: float, reset_s: float) -> List[Run]:
    """Return the deaths that count for the start at ``now_at``.

    A stop or a final exit begins the tally anew, and so does a run that worked for longer than ``reset_s``: its own
    death is the first. The wait before a run is no work, or the tally would fall apart as soon as the waits get as
    long as that.
    """
    tally: List[Run] = []
    for index in range(len(runs) - 1, -1, -1):
        run = runs[index]
        if not run.died:
            tally = []
            continue
        # Killed without a word: it lived until the next start at the latest.
        ended_at = run.exit.ended_at if run.exit else runs[index - 1].started_at if index else now_at
        tally = [run] if ended_at - run.started_at - run.waited_s > reset_s else [*tally, run]
    return tally


def wait_s(deaths: int, longest_s: float) -> float:
    """Return the seconds to wait after so many deaths in a row: 0, 0, 1, 2, 4 ... up to ``longest_s``."""
    return min(2.0 ** min(deaths - 2, 30), longest_s) if deaths > 1 else 0.0
