"""The channel that is always there: alerts as lines in the monitor's log."""

from __future__ import annotations

import sys
from datetime import datetime

from multibot_plugin.hookspecs import Alert, hookimpl


@hookimpl
def multibot_send_alert(alert: Alert) -> bool:
    line = " | ".join(alert.text.splitlines())
    print(
        f"{datetime.fromtimestamp(alert.at):%Y-%m-%d %H:%M:%S} ALERT {alert.kind} {line}", file=sys.stderr, flush=True
    )
    return True


@hookimpl
def multibot_channel() -> None:
    """Not counted: nobody is told by a log that nobody reads."""
