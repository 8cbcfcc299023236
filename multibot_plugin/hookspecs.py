"""The hooks: everything a plugin may implement, and the types it needs.

A plugin is a module (or an object) registered under the entry point group ``multibot.hooks``; its implementations
carry ``@hookimpl``. All hooks run in the monitor, are synchronous, and are called plugin by plugin: each plugin has
one daemon thread, a time limit (``monitor.plugin_timeout_s``) and no second call while one hangs. An exception is
logged, counted and costs that plugin's answer only; after five failures in a row the plugin is disabled, which
raises an alert. A plugin sees values, never live objects of the monitor. ``redact(text, tokens=())`` takes tokens out
of what a plugin says or logs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pluggy

from multibot_plugin.health.states import Alert, Finding, Health, Level, Observation, WebhookInfo
from multibot_runner.protocol import KILLED, Exit, Heartbeat, Run
from multibot_runner.redact import redact

__all__ = ["KILLED", "Alert", "Exit", "Finding", "Health", "Heartbeat", "Level", "MonitorInfo", "Observation", "Run",
           "WebhookInfo", "hookimpl", "multibot_channel", "multibot_check", "multibot_configure", "multibot_send_alert",
           "redact"]  # fmt: skip

PROJECT = "multibot"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@dataclass(frozen=True)
class MonitorInfo:
    """What a plugin may know about the monitor it runs in.

    ``settings``: the fleet's settings by name (docs/settings.md). ``own``: the plugin's own table ``[plugins.NAME]``
    of multibot.toml, NAME being its entry point's name; empty when absent.
    """

    host: str
    settings: Mapping[str, Any]
    own: Mapping[str, Any]


@hookspec
def multibot_configure(info: MonitorInfo) -> None:
    """Called once per plugin when the monitor starts, before any other hook of it.

    An exception here disables the plugin and is reported.
    """


@hookspec
def multibot_check(observation: Observation) -> list[Finding] | None:
    """Called for every bot at every tick (default 5 s); return what is wrong with it.

    None or an empty list: nothing. A finding for another bot than ``observation.bot`` is an error. An exception on
    one bot counts as one failure of the plugin for this tick and does not keep it from seeing the other bots. The
    time limit is for all bots of a tick together. Findings about a stopped bot are not looked at.
    """


@hookspec
def multibot_send_alert(alert: Alert) -> bool | None:
    """Called for every alert; send it and return True.

    None: this channel is not configured, or the alert is none of its business. An exception: not sent; the alert
    stays in the outbox and is offered to this plugin again, with growing pauses, for 24 hours.
    """


@hookspec
def multibot_channel() -> str | None:
    """Called when the monitor starts and about once a minute; say where this plugin's alerts go, in a few words.

    None: the channel is not configured. A plugin with ``multibot_send_alert`` and without this hook is shown by its
    name.
    """
