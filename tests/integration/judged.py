"""A fleet of real runners under the real monitor, without a whole installation: what does the manager say of them?"""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from matrix import Table
from nodes import copy_bots
from runners import Bot, Place, a_place
from supervisor.states import ProcessStates
from watched import FakeSupervisor, process

from multibot_plugin.bots.config import digest_of
from multibot_plugin.bots.files import read_key, write_key
from multibot_plugin.health.monitor import Monitor
from multibot_plugin.home import find_home
from multibot_plugin.hookspecs import MonitorInfo
from multibot_plugin.plugins import Plugins
from multibot_plugin.sandbox.client import Sandbox
from multibot_plugin.settings import load
from multibot_runner.protocol import EXIT_FINAL, EXIT_FINISHED, RunnerSettings, decode, read_file

_PATIENCE_S = 60.0
# Everything that is minutes for people is seconds here; a restart would end what is to be looked at. A poll of 1 s may
# be written down with a beat, 3 s later.
LIVE = {"deaf_after_s": 6.0, "start_grace_s": 5.0, "frozen_after_s": 5.0, "slow_after_s": 3.0, "deaths_limit": 2,
        "restart_budget": 0}  # fmt: skip
FLEET = 'bot_api_url = "{url}"\n[monitor]\nprobe_s = "1s"\n'


class Now:
    """The real clock, in the form of watched.Clock."""

    @property
    def mono(self) -> float:
        return time.monotonic()

    @property
    def wall(self) -> float:
        return time.time()

    def __call__(self) -> tuple[float, float]:
        return self.mono, self.wall


@dataclass
class Supervisord(FakeSupervisor):
    """supervisord with real processes, which it starts again as our sections say."""

    clock: Any = field(default_factory=Now)
    running: dict[str, tuple[Bot, subprocess.Popen[bytes]]] = field(default_factory=dict)

    def launch(self, bot: Bot) -> None:
        started = bot.start()
        self.running[bot.id] = bot, started
        made = self.processes[bot.id] = process(pid=started.pid, laststart=time.time())
        made.config.command = f"python -P -m multibot_runner {bot.id} {bot.digest}"

    def bots(self, known: Any = None) -> dict[str, Any]:
        for bot, started in list(self.running.values()):
            code = started.poll()
            if code in (EXIT_FINAL, EXIT_FINISHED):
                self.processes[bot.id] = process(ProcessStates.EXITED, 0, exitstatus=code)
            elif code is not None:
                self.launch(bot)
        return super().bots(known)


class Fleet:
    """Bots side by side under one monitor; ``env`` is every bot's. ``webhook``: they receive by webhook."""

    def __init__(self, place: Place, sandbox: Sandbox, table: Table, webhook: bool, env: dict[str, str]) -> None:
        self.sandbox, self.home, self.supervisord = sandbox, find_home(str(place.top)), Supervisord()
        self.table = table
        self.home.log.mkdir()
        self.home.toml.write_text(FLEET.format(url=sandbox.url))
        write_key(self.home, key := read_key(self.home))
        copy_bots(bots := place.top / "bots")
        self.bots: dict[str, Bot] = {}
        for name, (launch, target) in table.forms.items():
            more = _hooked() if webhook else {"receives": "auto"}
            bot = self.bots[name] = place.bot(
                launch, target.format(bots=bots), bot_api_url=sandbox.url, poll_timeout_s=1.0, **more,
                env={"POLL_S": "1", "NO_PROXY": "127.0.0.1", "WEBHOOK_URL": more.get("webhook_url", ""), **env},
            )  # fmt: skip
            _sign(bot, key)
            bot.paths.live.write_text(json.dumps({"launch": launch, "receives": more["receives"], **LIVE}))
            sandbox.register(bot.token, bot.id)

    def launch(self) -> None:
        for bot in self.bots.values():
            self.supervisord.launch(bot)

    async def watch(self) -> None:
        """Begin a monitor, with the plugins that are installed."""
        settings = load(self.home.toml, environ={})
        plugins = await Plugins.load(lambda name: MonitorInfo("h", settings.values, {}), 20)
        self.monitor = Monitor(self.home, settings, plugins, lambda: self.supervisord, lambda bot, on: None, Now())
        self.monitor.begin()

    async def until(self, condition: Callable[[], bool]) -> bool:
        """Let the monitor look, while users write, until the condition holds; False when it does not in time."""
        deadline, looks = time.monotonic() + _PATIENCE_S, 0
        while not condition():
            if time.monotonic() > deadline:
                return False
            if looks % 4 == 0:
                for bot in self.bots.values():
                    self.sandbox.say(bot.token, "hi")
            looks += 1
            await asyncio.sleep(0.5)
            await self.monitor.tick()
        return True

    @property
    def words(self) -> dict[str, str]:
        """What the manager says of each bot: its health, with the check that found it where that says more."""
        if not self.home.status.exists():
            return {}
        status = json.loads(self.home.status.read_text())
        return {name: _word(status, bot.id) for name, bot in self.bots.items()}


def _hooked() -> dict[str, Any]:
    """Return the settings of a bot that gets its updates at a port of its own."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    return {"receives": "webhook", "port": port, "webhook_url": f"http://127.0.0.1:{port}/webhook"}


def _sign(bot: Bot, key: bytes) -> None:
    """Give a bot's files the digest that ``apply`` would have given them."""
    before, paths = bot.digest, bot.paths
    bot.digest = digest_of(decode(RunnerSettings, read_file(paths.settings(before))), bot.token, key)
    paths.settings(before).rename(paths.settings(bot.digest))
    paths.token(before).rename(paths.token(bot.digest))


def _word(status: dict[str, Any], bot: str) -> str:
    row = status["bots"].get(bot, {})
    health = str(row.get("health"))
    if health == "degraded":
        return ", ".join(i["check"] for i in status["incidents"] if i["bot"] == bot)
    return "not visible" if row.get("cause") == "polling is not visible" else health


@asynccontextmanager
async def a_fleet(sandbox: Sandbox, table: Table, webhook: bool = False, **env: str) -> AsyncIterator[Fleet]:
    with a_place() as place:
        fleet = Fleet(place, sandbox, table, webhook, env)
        await fleet.watch()
        try:
            yield fleet
        finally:
            await fleet.monitor.close()
