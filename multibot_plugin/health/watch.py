"""The monitor's loop: tick after tick, and anew whenever multibot.toml has changed."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from functools import partial

from multibot_plugin.bots import apply
from multibot_plugin.bots.astray import astray
from multibot_plugin.bots.conform import Applied
from multibot_plugin.errors import BadValue, MultibotError
from multibot_plugin.health.monitor import Monitor
from multibot_plugin.home import Home
from multibot_plugin.hookspecs import MonitorInfo
from multibot_plugin.plugins import Plugins, describe
from multibot_plugin.settings import Settings, load
from multibot_plugin.supervisor.client import Supervisor
from multibot_plugin.workers import ended

LEAST_PAUSE_S = 1.0  # between two ticks, however many events come
_log = logging.getLogger("multibot.monitor")


async def run(home: Home, wake: asyncio.Event | None = None) -> None:
    """Run the monitor until cancelled, anew whenever multibot.toml has changed. ``wake``: set it for an early tick.

    No failure of a tick ends it; a multibot.toml that cannot be used is reported and waited for.
    """
    wake = wake or asyncio.Event()
    while True:
        signature = _signature(home)
        try:
            settings = load(home.toml)
        except BadValue as error:
            _log.error("the monitor cannot begin: %s", error)
            while _signature(home) == signature:  # noqa: ASYNC110 - a file, not an event
                await asyncio.sleep(LEAST_PAUSE_S)
            continue
        await _run_under(home, settings, signature, wake)
        _log.info("multibot.toml has changed: the monitor begins anew")


async def _run_under(home: Home, settings: Settings, signature: object, wake: asyncio.Event) -> None:
    plugins = await Plugins.load(lambda name: _info(settings, name), settings["monitor.plugin_timeout_s"])
    monitor = Monitor(home, settings, plugins, lambda: Supervisor.of(home),
                      lambda bot, on: _set_autostart(home, bot, on), finish=lambda: _finish(home),
                      astray=partial(astray, home))  # fmt: skip
    monitor.begin()
    replaying = asyncio.create_task(monitor.replayer.run(), name="replayer")
    try:
        await _tick_on(monitor, signature, wake)
    finally:
        await ended([replaying])
        await monitor.close()


async def _tick_on(monitor: Monitor, signature: object, wake: asyncio.Event) -> None:
    said, tick_s = "", float(monitor.settings["monitor.tick_s"])
    while True:
        wake.clear()
        try:
            await monitor.tick()
            said = ""
        except Exception as error:
            if (text := describe(error)) != said:
                _log.error("a tick failed: %s", text, exc_info=None if isinstance(error, MultibotError) else error)
            said = text
        least_s = min(LEAST_PAUSE_S, tick_s)
        await asyncio.sleep(least_s)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.0 if monitor.waiting else max(0.0, tick_s - least_s)):
                await wake.wait()
        now = _signature(monitor.home)
        # A restart under way would be begun a second time by the next monitor.
        if now != signature and not monitor.hands.acting:
            try:
                load(monitor.home.toml)
                return
            except BadValue as error:
                _log.error("multibot.toml has changed, the monitor goes on with what it has: %s", error)
                signature = now


def _info(settings: Settings, name: str) -> MonitorInfo:
    # A database URL may hold a password, and no plugin needs it.
    values = {key: value for key, value in settings.values.items() if key != "database_url"}
    return MonitorInfo(socket.gethostname(), values, settings.plugins.get(name, {}))


def _set_autostart(home: Home, bot: str, enabled: bool) -> None:
    with Supervisor.of(home) as supervisor:
        apply.set_autostart(home, supervisor, bot, enabled)


def _finish(home: Home) -> Applied | None:
    with Supervisor.of(home) as supervisor:
        return apply.finish(home, supervisor)


def _signature(home: Home) -> object:
    try:
        info = home.toml.stat()
    except OSError:
        return None
    return info.st_mtime_ns, info.st_size, info.st_ino
