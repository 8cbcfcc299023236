"""Ask a daemon something cheap again and again until stdin ends; then print the longest wait for an answer.

    probe.py supervisord SOCKET      getState
    probe.py circus ENDPOINT         numwatchers (with circus's own interpreter and client)

It pauses for 5 ms between two questions: it should not become the load that it measures. probe_pm2.js is the same.
"""

from __future__ import annotations

import json
import select
import sys
import time
from collections.abc import Callable
from pathlib import Path

PAUSE_S = 0.005


def asker(kind: str, address: str) -> Callable[[], object]:
    if kind == "circus":
        from circus.client import CircusClient  # type: ignore[import-not-found]

        client = CircusClient(endpoint=address, timeout=300)
        return lambda: client.call({"command": "numwatchers", "properties": {}})
    from multibot_plugin.supervisor.client import Supervisor

    return Supervisor(Path(address), timeout_s=300).state


def main() -> int:
    ask = asker(*sys.argv[1:])
    ask()
    print("ready", flush=True)
    waits = []
    while not select.select([sys.stdin], [], [], PAUSE_S)[0]:
        began = time.monotonic()
        ask()
        waits.append(time.monotonic() - began)
    print(json.dumps({"longest_s": max(waits, default=0.0), "questions": len(waits)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
