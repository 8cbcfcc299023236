from __future__ import annotations

from typing import Any

import pytest

from multibot_runner.notify import meaning


@pytest.mark.parametrize(
    ("message", "changes"),
    [
        (b"READY=1", {"ready_mono": 100.0}),
        (b"READY=0\nREADY\n=1\n\nMAINPID=1\nFDSTORE=1", {}),
        (b"READY=1\nSTATUS=serving\nWATCHDOG=1\n",
         {"ready_mono": 100.0, "status": "serving", "watchdog_mono": 100.0}),
        (b"STOPPING=1\nSTATUS=bye", {"ready_mono": None, "status": "bye"}),
        (b"STATUS=a=b \xff", {"status": "a=b \ufffd"}),
        (b"STATUS=" + b"x" * 4000, {"status": "x" * 200}),
        (b"STATUS=https://t/bot123456789:" + b"A" * 35, {"status": "https://t/bot123456789:<redacted>"}),
        (b"WATCHDOG_USEC=7500000", {"watchdog_s": 7.5}),
        (b"WATCHDOG_USEC=1", {"watchdog_s": 5.0}),
        (b"WATCHDOG_USEC=0", {"watchdog_s": None}),
        (b"WATCHDOG_USEC=-1\nWATCHDOG_USEC=x\nWATCHDOG_USEC=" + b"9" * 400, {}),
        (b"WATCHDOG=trigger", {"watchdog_mono": 89.0}),
        (b"\0\xff" * 50, {}),
    ],
)  # fmt: skip
def test_what_a_message_means(message: bytes, changes: dict[str, Any]) -> None:
    assert meaning(message, 100.0, 10.0) == changes


def test_a_trigger_without_a_watchdog_says_nothing() -> None:
    assert meaning(b"WATCHDOG=trigger", 100.0, None) == {}
