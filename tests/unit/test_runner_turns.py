from __future__ import annotations

import collections
from typing import Any

from multibot_runner.turns import Turns


def test_what_comes_just_before_the_flag_falls_is_done_too() -> None:
    """As a signal's handler may come between any two steps."""

    class Acts(collections.deque[Any]):
        def __len__(self) -> int:
            count = super().__len__()
            if count == 0 and "interrupted" not in done:
                done.append("interrupted")
                turns.take(lambda: done.append("second"))
            return count

    done: list[str] = []
    turns = Turns()
    turns._acts = Acts()
    turns.take(lambda: done.append("first"))
    assert done == ["first", "interrupted", "second"]
