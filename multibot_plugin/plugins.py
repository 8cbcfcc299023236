"""The plugins: found by entry point, loaded one by one, and called so that none can hurt the monitor or another.

Each plugin has one daemon thread. A call has a time limit; while one hangs the plugin is not called again. An
exception, a wrong answer, a call over the limit or still hanging is a failure; after FAILURES_ALLOWED in a row the
plugin is disabled until the monitor starts again. An alert that could not be sent is no failure of that kind: it stays
in the outbox, whatever became of the plugin, and is offered again.
"""

from __future__ import annotations

import asyncio
import logging
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar

import pluggy

from multibot_plugin import hookspecs
from multibot_plugin.alerts.format import one_line
from multibot_plugin.hookspecs import PROJECT, Alert, Finding, Health, Level, MonitorInfo, Observation
from multibot_plugin.workers import StillBusy, TooSlow, Worker, text_of

GROUP = "multibot.hooks"
FAILURES_ALLOWED = 5
LOAD_TIMEOUT_S = 30.0
MOST_FINDINGS = 20  # of one plugin about one bot
_LONGEST_TEXT = 4000  # of what a plugin says, before it is made one line
HOOKS = tuple(name for name in hookspecs.__all__ if name.startswith("multibot_"))
_CHECK = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")
_log = logging.getLogger("multibot.plugins")
_T = TypeVar("_T")


class PluginError(Exception):
    """What a plugin raised, in words that are made here and now: in its own thread. ``reason``: see ``_reason``."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(describe(error))
        self.reason = _reason(error)


class SendFailed(Exception):
    """A channel did not send an alert; the message says why."""


@dataclass(frozen=True)
class PluginStatus:
    """What status.json says of a plugin; ``failures`` in a row, ``text`` the last one's words."""

    name: str
    failures: int
    disabled: bool
    text: str


@dataclass(frozen=True)
class Answer:
    """What one plugin found on one bot; ``findings`` None: it gave no (valid) answer this time."""

    plugin: str
    bot: str
    findings: tuple[Finding, ...] | None


@dataclass
class _Plugin:
    name: str
    worker: Worker
    failures: int = 0
    disabled: bool = False
    text: str = ""
    hooks: dict[str, pluggy.HookCaller] = field(default_factory=dict)


class Plugins:
    """Every plugin of the monitor. ``timeout_s`` limits one call; a tick's questions to a plugin are one call."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._plugins: dict[str, _Plugin] = {}

    @classmethod
    async def load(
        cls, info: Callable[[str], MonitorInfo], timeout_s: float, points: Iterable[EntryPoint] | None = None
    ) -> Plugins:
        """Load and configure what the entry points name; a broken one is disabled and reported.

        ``info`` gives what a plugin of that name may know; ``points`` None: those of the environment.
        """
        self = cls(timeout_s)
        for point in sorted(entry_points(group=GROUP) if points is None else points, key=lambda p: p.name):
            await self._add(point)
        await asyncio.gather(*(self._configure(p, info(p.name)) for p in self._active()))
        return self

    async def check(self, observations: Sequence[Observation]) -> list[Answer]:
        """Ask every plugin that checks about every bot, all plugins at once; one answer per plugin and bot."""
        asked = [p for p in self._active() if "multibot_check" in p.hooks]
        answers = await asyncio.gather(*(self._check(p, observations) for p in asked))
        return [answer for some in answers for answer in some]

    async def send(self, name: str, alert: Alert) -> bool | None:
        """Offer ``alert`` to the channel of plugin ``name``: True sent, None not its business.

        Raises SendFailed.
        """
        plugin = self._plugins.get(name)
        if plugin is None or "multibot_send_alert" not in plugin.hooks:
            raise SendFailed("the plugin is not there any more")
        if plugin.disabled:
            raise SendFailed(f"the plugin is disabled: {plugin.text}")
        try:
            hook = plugin.hooks["multibot_send_alert"]
            call = _in_words(lambda: [_sent(r) for r in hook(alert=alert)])
            results = await plugin.worker.call(call, self._timeout_s)
        except Exception as error:
            ours = isinstance(error, TooSlow | StillBusy)
            reason = error.reason if isinstance(error, PluginError) else str(error) if ours else describe(error)
            raise SendFailed(reason) from error
        if not results:
            return None
        if results[0]:
            raise SendFailed(f"answered {results[0]} instead of True")
        return True

    async def channels(self) -> dict[str, str]:
        """Return where alerts reach people: a few words for each plugin whose channel is configured (not the log)."""
        asked = [p for p in self._active() if "multibot_send_alert" in p.hooks]
        shown = await asyncio.gather(*(self._describe(p) for p in asked))
        return {p.name: text for p, text in zip(asked, shown, strict=True) if text}

    def senders(self) -> tuple[str, ...]:
        """Return the names of the plugins that send alerts; disabled ones, too: what waits for them is told."""
        return tuple(p.name for p in self._plugins.values() if "multibot_send_alert" in p.hooks)

    def watching(self) -> frozenset[str]:
        """Return the names of the plugins that check bots."""
        return frozenset(p.name for p in self._active() if "multibot_check" in p.hooks)

    def status(self) -> tuple[PluginStatus, ...]:
        return tuple(PluginStatus(p.name, p.failures, p.disabled, p.text) for p in self._plugins.values())

    def close(self) -> None:
        """Let go of the threads (those that hang stay until the process ends)."""
        for plugin in self._plugins.values():
            plugin.worker.close()

    def _active(self) -> list[_Plugin]:
        return [p for p in self._plugins.values() if not p.disabled]

    async def _add(self, point: EntryPoint) -> None:
        name = point.name
        if name in self._plugins:
            name = f"{point.name} ({point.value})"
            self._plugins[name] = plugin = _Plugin(name, Worker(name))
            self._disable(plugin, "another plugin has the same name")
            return
        self._plugins[name] = plugin = _Plugin(name, Worker(f"plugin {name}"))
        try:
            plugin.hooks = await plugin.worker.call(_in_words(lambda: _hooks(name, point.load())), LOAD_TIMEOUT_S)
        except Exception as error:
            self._disable(plugin, f"cannot be loaded: {describe(error)}", error)

    async def _configure(self, plugin: _Plugin, info: MonitorInfo) -> None:
        hook = plugin.hooks.get("multibot_configure")
        if hook is None:
            return
        try:
            await plugin.worker.call(_in_words(lambda: [_no_coroutine(r) for r in hook(info=info)]), self._timeout_s)
        except Exception as error:
            self._disable(plugin, f"cannot be configured: {describe(error)}", error)

    async def _check(self, plugin: _Plugin, observations: Sequence[Observation]) -> list[Answer]:
        hook = plugin.hooks["multibot_check"]
        try:
            outcomes = await plugin.worker.call(lambda: [_ask(hook, o) for o in observations], self._timeout_s)
        except (TooSlow, StillBusy) as error:
            self._failed(plugin, f"checking: {error}")
            return [Answer(plugin.name, o.bot, None) for o in observations]
        failures = [(o.bot, r) for o, r in zip(observations, outcomes, strict=True) if isinstance(r, BaseException)]
        if failures:
            self._failed(plugin, f"checking {failures[0][0]}: {describe(failures[0][1])}", failures[0][1])
        else:
            plugin.failures, plugin.text = 0, ""
        return [
            Answer(plugin.name, o.bot, None if isinstance(r, BaseException) else r)
            for o, r in zip(observations, outcomes, strict=True)
        ]

    async def _describe(self, plugin: _Plugin) -> str | None:
        hook = plugin.hooks.get("multibot_channel")
        if hook is None:
            return plugin.name
        try:
            call = _in_words(lambda: [_shown(_no_coroutine(r)) for r in hook()])
            results = await plugin.worker.call(call, self._timeout_s)
            return results[0] if results else None
        except Exception as error:
            self._failed(plugin, f"describing its channel: {describe(error)}", error)
            return plugin.name

    def _failed(self, plugin: _Plugin, text: str, error: BaseException | None = None) -> None:
        plugin.failures += 1
        known, plugin.text = text == plugin.text, text
        if plugin.failures >= FAILURES_ALLOWED:
            self._disable(plugin, f"{plugin.failures} failures in a row, the last one {text}")
        elif not known:
            # The traceback is for the plugin's author; the same one at every tick would only fill the log.
            _log.error("plugin %s failed (%d in a row): %s", plugin.name, plugin.failures, text, exc_info=error)

    def _disable(self, plugin: _Plugin, text: str, error: BaseException | None = None) -> None:
        plugin.disabled, plugin.text, plugin.failures = True, text, max(1, plugin.failures)
        _log.error("plugin %s is disabled: %s", plugin.name, text, exc_info=error)


def describe(error: BaseException) -> str:
    """Return an exception as one line in which no token can be read."""
    text = text_of(error)[:_LONGEST_TEXT]
    if isinstance(error, PluginError):
        return text
    return one_line(f"{type(error).__name__}: {text}" if text else type(error).__name__, 300)


def _in_words(function: Callable[[], _T]) -> Callable[[], _T]:
    """Return ``function``, raising PluginError instead of anything: the words are made in the plugin's thread."""

    def call() -> _T:
        try:
            return function()
        except BaseException as error:
            raise PluginError(error) from error

    return call


def _reason(error: BaseException) -> str:
    """Return why an alert was not sent: a channel's own exception speaks for itself, one of Python's needs its name."""
    text = text_of(error)[:_LONGEST_TEXT]
    return one_line(text, 300) if text and type(error).__module__ != "builtins" else describe(error)


def _hooks(name: str, loaded: Any) -> dict[str, pluggy.HookCaller]:
    """Return what a plugin implements; raises what pluggy says of a hook that does not exist or wants more.

    A manager of its own for each plugin: a call reaches that plugin alone, and no other can be broken by it.
    """
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(hookspecs)
    manager.register(loaded, name)
    manager.check_pending()  # a misspelt hook would never be called
    callers = {hook: getattr(manager.hook, hook) for hook in HOOKS}
    return {hook: caller for hook, caller in callers.items() if caller.get_hookimpls()}


def _shown(value: Any, longest: int = 100) -> str:
    return one_line(str(value)[:_LONGEST_TEXT], longest)


def _sent(result: Any) -> str:
    """Return nothing for True, else what was answered instead."""
    return "" if _no_coroutine(result) is True else _shown(repr(result)) or type(result).__name__


def _ask(hook: pluggy.HookCaller, observation: Observation) -> tuple[Finding, ...] | BaseException:
    try:
        findings: list[Finding] = []
        for result in hook(observation=observation):
            _no_coroutine(result)
            if not isinstance(result, list | tuple):
                raise TypeError(f"answered {type(result).__name__}, not a list of findings")
            if len(findings) + len(result) > MOST_FINDINGS:
                raise ValueError(f"answered {len(result)} findings about one bot, at most {MOST_FINDINGS} are taken")
            findings.extend(_checked(item, observation.bot) for item in result)
        return tuple(findings)
    except BaseException as error:  # also SystemExit: it costs this answer only
        failure = PluginError(error)
        failure.__cause__ = error
        return failure


def _no_coroutine(result: Any) -> Any:
    if asyncio.iscoroutine(result):
        result.close()
        raise TypeError("the hook is a coroutine: hooks are synchronous")
    return result


def _checked(finding: Any, bot: str) -> Finding:
    if not isinstance(finding, Finding):
        raise TypeError(f"answered a list with {type(finding).__name__} in it, not a Finding")
    if finding.bot != bot:
        raise ValueError(f"asked about {bot!r}, answered about {_shown(finding.bot, 40)!r}")
    if not isinstance(finding.check, str) or not _CHECK.fullmatch(finding.check):
        raise ValueError(f"check {_shown(finding.check, 80)!r} is not a word of a-z, 0-9, _, . and -")
    for_s = float(finding.for_s)
    if not 0 <= for_s < math.inf:
        raise ValueError(f"check {finding.check}: for_s {for_s} is not a time")
    since_mono = None if finding.since_mono is None else float(finding.since_mono)
    if since_mono is not None and not math.isfinite(since_mono):
        raise ValueError(f"check {finding.check}: since_mono {since_mono} is not a time")
    return replace(
        finding, level=Level(finding.level), health=Health(finding.health), for_s=for_s,
        text=_shown(finding.text, 500) or finding.check, restart=bool(finding.restart),
        since_mono=since_mono,
    )  # fmt: skip
