"""The bots of the benchmark as rows of bot_configs, and one of them changed: ``bots.py DIRECTORY COUNT BOT VERSION``.

As a program it is ``multibot apply`` without its one query to the database: the rows come from here.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from multibot_plugin.bots.apply import apply, load
from multibot_plugin.bots.plan import Plan
from multibot_plugin.home import Home, find_home
from multibot_plugin.settings import load as load_settings
from multibot_plugin.supervisor.client import Supervisor


def row(bot: str, number: int, version: int) -> dict[str, Any]:
    return {
        "id": bot, "enabled": True, "launch": "command", "target": "/bin/true", "env": {"VERSION": str(version)},
        "token": f"{100000 + number}:AAabcdefghijklmnopqrstuvwxyz0123456", "uid": None,
        "settings": {"user": "root"} if os.geteuid() == 0 else {}, "config_version": version,
    }  # fmt: skip


def plan(home: Home, script: Path, bots: list[str], changed: str = "", version: int = 1) -> Plan:
    """Return the plan for these bots, ``changed`` in its ``version``; ``script`` stands where the runner does."""
    rows = [row(bot, number, version if bot == changed else 1) for number, bot in enumerate(bots)]
    return load(home, load_settings(home.toml, environ={}), rows, python=str(script))


def main(directory: str, count: str, changed: str, version: str) -> int:
    home = find_home(directory)
    bots = [f"b-{number:04d}" for number in range(int(count))]
    with Supervisor.of(home, timeout_s=300) as supervisor:
        applied = apply(home, plan(home, Path(directory, "program"), bots, changed, int(version)), supervisor)
    return 0 if applied.restarted == (changed,) and not applied.failed else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
