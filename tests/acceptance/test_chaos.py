"""Whatever is killed, in whatever order: the same bots poll, once each, and every death is in the audit log once."""

from __future__ import annotations

import os
import random

from chaos import chaotic

SECONDS = 20.0


def test_faults_in_random_order_lose_no_bot_no_poll_and_no_record() -> None:
    seed = int(os.environ.get("MULTIBOT_CHAOS_SEED", random.randrange(2**32)))
    print(f"MULTIBOT_CHAOS_SEED={seed}")  # shown when this fails
    with chaotic(seed, print) as chaos:
        figures = chaos.run(SECONDS)
    assert figures.faults
    assert (figures.lost, figures.doubled, figures.double_polls) == ({}, set(), 0), "\n".join(figures.lines())
