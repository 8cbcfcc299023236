"""The form ``build``: a function of the bot's makes a python-telegram-bot Application, and we run it.

``build(builder)`` or ``build(builder, bot)``: the builder has the token and the server already; ``bot`` is a
``BotContext``.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import importlib.util
import inspect
import logging
import os
import sys
from dataclasses import dataclass
from typing import Any, Callable, List

from multibot_runner import outcome, polls, script, setup_logger
from multibot_runner.launch import Launch
from multibot_runner.outcome import Misconfigured
from multibot_runner.protocol import BotPaths, Exit, RunnerSettings
from multibot_runner.record import Recorder

BEAT_S = 3.0


@dataclass(frozen=True)
class BotContext:
    """What a build function may know of its bot. ``paths.work`` is the bot's own directory, which lasts."""

    id: str
    settings: RunnerSettings
    logger: logging.Logger
    paths: BotPaths


def run(launch: Launch, recorder: Recorder) -> Exit:
    """Build the bot and poll until it is stopped or its token is refused; raises Misconfigured."""
    watch = polls.PollWatch(recorder, launch.settings.bot_api_url, launch.token)
    polls.install(watch, spare_cryptography=launch.own_interpreter)
    recorder.update(polling_seen=True)
    sys.argv = [launch.settings.target]
    try:
        application = _build(launch)
        _poll(application, launch, recorder, watch)
        result = outcome.ended(0)
    except Misconfigured:
        raise
    except SystemExit as error:
        result = outcome.ended(script.exit_code(error))
    except BaseException as error:
        result = script.report(error)
    script.end_threads()
    if recorder.stopping:
        return outcome.stopped(result.code, result.signal)
    return outcome.rejected(watch.rejected) if watch.rejected else result


def _build(launch: Launch) -> Any:
    function = find_function(launch.settings.target)
    try:
        from telegram.ext import Application
    except ModuleNotFoundError as error:
        raise Misconfigured(f"{sys.executable} has no python-telegram-bot: {error}") from None
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it logs every URL, and the token is part of it
    url = launch.settings.bot_api_url
    builder = Application.builder().token(launch.token).base_url(f"{url}/bot").base_file_url(f"{url}/file/bot")
    arguments: List[Any] = [builder]
    if _takes_context(function):
        logger = setup_logger(launch.settings.bot)
        arguments.append(BotContext(launch.settings.bot, launch.settings, logger, launch.paths))
    application = function(*arguments)
    if inspect.iscoroutine(application):
        application.close()
    target = launch.settings.target
    if not isinstance(application, Application):
        kind = type(application).__name__
        raise Misconfigured(f"{target} must return the Application (builder.build()), it returned {kind}")
    if application.bot.token != launch.token:
        raise Misconfigured(f"{target} sets another token: leave .token() to multibot")
    if application.updater is None:
        raise Misconfigured(f"{target} built an Application without an Updater: leave .updater(None) out")
    return application


def find_function(target: str) -> Callable[..., Any]:
    """Return the function that MODULE:FUNCTION or /path/file.py:FUNCTION names; raises Misconfigured.

    A module is looked for in the working directory first; a file's own folder goes to the front of ``sys.path``.
    An error inside the module is the bot's own and goes through.
    """
    place, _, name = target.rpartition(":")
    module = _import_file(place) if place.startswith("/") else _import_module(place)
    function = getattr(module, name, None)
    if not callable(function):
        raise Misconfigured(f"{place} has no function {name!r}")
    return function  # type: ignore[no-any-return]


def _import_file(path: str) -> Any:
    if not os.path.isfile(path):
        raise Misconfigured(f"build {path}: no such file")
    if not os.access(path, os.R_OK):
        raise Misconfigured(f"build {path}: Permission denied")
    sys.path.insert(0, os.path.dirname(os.path.realpath(path)))
    name = os.path.splitext(os.path.basename(path))[0]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _import_module(name: str) -> Any:
    sys.path.insert(0, os.getcwd())
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not (name + ".").startswith(error.name + "."):
            raise  # another module, which the bot's code wants
        raise Misconfigured(f"no module named {error.name!r} in {os.getcwd()} or in {sys.executable}") from None


def _takes_context(function: Callable[..., Any]) -> bool:
    try:
        kinds = [p.kind for p in inspect.signature(function).parameters.values()]
    except (TypeError, ValueError):
        return False
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(kind in positional for kind in kinds) >= 2 or inspect.Parameter.VAR_POSITIONAL in kinds


def _poll(application: Any, launch: Launch, recorder: Recorder, watch: polls.PollWatch) -> None:
    if not logging.root.handlers:
        setup_logger("")
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)

    def beat() -> None:
        recorder.beat()
        loop.call_later(BEAT_S, beat)

    async def leave() -> None:
        # The library gives up polling without a word. Its updater raises that when it is stopped, and what the bot
        # wants saved at a stop would not be: so it is stopped here, before the rest.
        await asyncio.sleep(0.1)
        while not application.running and not recorder.stopping:  # noqa: ASYNC110 - it has not got as far yet
            await asyncio.sleep(0.1)
        if not recorder.stopping:
            with contextlib.suppress(Exception):
                await application.updater.stop()
            application.stop_running()

    def refused() -> None:
        if not tasks and not recorder.stopping:
            tasks.append(loop.create_task(leave()))

    tasks: List[asyncio.Task[None]] = []
    loop.call_soon(beat)
    watch.on_rejected = refused
    application.run_polling(timeout=round(launch.settings.poll_timeout_s), bootstrap_retries=-1)
