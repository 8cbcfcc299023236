"""The form ``build``: a function of the bot's makes a python-telegram-bot Application, and we run it (serve.py).

``build(builder)`` or ``build(builder, bot)``: the builder has the token, the server and, where aiolimiter is installed,
a rate limiter already; ``bot`` is a ``BotContext``. A function whose first parameter is called ``application`` gets the
finished Application to register its handlers with.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import inspect
import logging
import os
import sys
from typing import Any, Callable, Iterator, List

from multibot_runner import BotContext, script, serve, setup_logger, sight
from multibot_runner.launch import Launch
from multibot_runner.outcome import Misconfigured
from multibot_runner.protocol import Exit
from multibot_runner.record import Recorder

_READY = ("application", "app")  # how the parameter of a function that only registers is called


def run(launch: Launch, recorder: Recorder) -> Exit:
    """Build the bot and run it until it is stopped or its token is refused; raises Misconfigured."""
    seen = sight.install(launch, recorder)
    recorder.update(polling_seen=True)
    sys.argv = [launch.settings.target]

    def code() -> None:
        serve.check(launch.settings)
        serve.run(_build(launch), launch, recorder, seen)

    return script.to_the_end(code, recorder, seen.watch)


def _build(launch: Launch) -> Any:
    function = find_function(launch.settings.target)
    try:
        from telegram.ext import Application
    except ModuleNotFoundError as error:
        raise Misconfigured(f"{sys.executable} has no python-telegram-bot: {error}") from None
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it logs every URL, and the token is part of it
    target = launch.settings.target
    with _traps(target, Application):
        application = _call(function, _prepared(launch, Application.builder()), launch)
    if inspect.iscoroutine(application):
        application.close()
        raise Misconfigured(f"{target} is an async function: make it a plain one (def), what waits goes into post_init")
    if not isinstance(application, Application):
        kind = type(application).__name__
        raise Misconfigured(f"{target} must return the Application (builder.build()), it returned {kind}")
    if application.bot.token != launch.token:
        raise Misconfigured(f"{target} sets another token: leave .token() to multibot")
    if application.updater is None and launch.settings.receives != "nothing":
        raise Misconfigured(f"{target} built an Application without an Updater: leave .updater(None) out")
    return application


def _prepared(launch: Launch, builder: Any) -> Any:
    url = launch.settings.bot_api_url
    builder = builder.token(launch.token).base_url(f"{url}/bot").base_file_url(f"{url}/file/bot")
    if importlib.util.find_spec("aiolimiter") is None:
        return builder
    from telegram.ext import AIORateLimiter

    return builder.rate_limiter(AIORateLimiter())


def _call(function: Callable[..., Any], builder: Any, launch: Launch) -> Any:
    """Return what the bot's function makes: of the builder, or of the finished Application."""
    names = _positional(function)
    ready = builder.build() if names and names[0] in _READY else None
    arguments: List[Any] = [builder if ready is None else ready]
    if len(names) >= 2:
        logger = setup_logger(launch.settings.bot)
        arguments.append(BotContext(launch.settings.bot, launch.settings, logger, launch.paths))
    made = function(*arguments)
    return ready if ready is not None and made is None else made


@contextlib.contextmanager
def _traps(target: str, application: Any) -> Iterator[None]:
    """Say in one line what a function may not do with what it is given."""

    def refuse(self: Any, *args: Any, **options: Any) -> Any:
        raise Misconfigured(f"{target} runs the bot itself: leave run_polling() out and return the Application")

    kept = application.run_polling, application.run_webhook
    application.run_polling = application.run_webhook = refuse
    try:
        yield
    except RuntimeError as error:
        frames = inspect.getinnerframes(error.__traceback__, 0) if error.__traceback__ else []
        if not frames or not frames[-1].filename.endswith("_applicationbuilder.py"):
            raise
        raise Misconfigured(f"{target}: {error} (token and server are set by multibot)") from None
    finally:
        application.run_polling, application.run_webhook = kept


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


def _positional(function: Callable[..., Any]) -> List[str]:
    """Return the names of the arguments that a function takes by position; two for ``*arguments``."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return [""]
    if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters):
        return ["", ""]
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [parameter.name for parameter in parameters if parameter.kind in kinds]
