"""Whatever is killed, in whatever order: the same bots poll, once each, and every death is in the audit log once."""

from __future__ import annotations

import os
import random
from collections import Counter

from chaos import ALL_WELL, ALWAYS, Figures, chaotic

SECONDS = 20.0


def test_faults_in_random_order_lose_no_bot_no_poll_and_no_record() -> None:
    seed = int(os.environ.get("MULTIBOT_CHAOS_SEED", random.randrange(2**32)))
    print(f"MULTIBOT_CHAOS_SEED={seed}")  # shown when this fails
    with chaotic(seed, print) as chaos:
        figures = chaos.run(SECONDS)
    assert figures.faults.keys() >= set(ALWAYS)
    assert figures.verdict == ALL_WELL, "\n".join(figures.lines())


def test_the_verdict_names_what_did_not_hold() -> None:
    assert Figures().lines()[-1] == ALL_WELL
    figures = Figures(lost=Counter(script=2), doubled={("build", 1)}, others={("", 2)}, double_polls=3)
    assert figures.lines()[-1] == (
        "2 deaths not recorded; 1 deaths recorded twice; 1 deaths that no fault explains; 3 double polls"
    )
