"""Runs the Application of a ``build`` bot as its setting ``receives`` says: by polls, by webhook, or not at all."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import hmac
import importlib.util
import logging
import re
import signal
import sys
from typing import Any, List
from urllib.parse import urlsplit

from multibot_runner.launch import Launch
from multibot_runner.outcome import Misconfigured
from multibot_runner.protocol import RunnerSettings
from multibot_runner.record import Recorder
from multibot_runner.sight import Sight


def check(settings: RunnerSettings) -> None:
    """Raise Misconfigured where a bot that receives by webhook lacks something."""
    if settings.receives != "webhook":
        return
    missing = [name for name in ("webhook_url", "port") if not getattr(settings, name)]
    if missing:
        flags = " and ".join("--" + name.replace("_", "-") for name in missing)
        raise Misconfigured(f"a build bot that receives by webhook needs {flags}")
    if importlib.util.find_spec("tornado") is None:
        raise Misconfigured(f'webhooks need tornado: {sys.executable} -m pip install "python-telegram-bot[webhooks]"')


def run(application: Any, launch: Launch, recorder: Recorder, seen: Sight) -> None:
    """Run the bot until it is stopped, or Telegram refuses its token."""
    if not logging.root.handlers:
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    seen.beat.on(loop)
    receives = launch.settings.receives
    if receives == "webhook":
        _listen(application, launch)
    elif receives == "nothing":
        loop.run_until_complete(_stay(application))
    else:
        _leave_when_refused(application, recorder, seen, loop)
        application.run_polling(timeout=round(launch.settings.poll_timeout_s), bootstrap_retries=-1)


def _leave_when_refused(application: Any, recorder: Recorder, seen: Sight, loop: asyncio.AbstractEventLoop) -> None:
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
    seen.watch.on_rejected = refused


def secret_of(token: str) -> str:
    """Return what Telegram is told to show with each delivery: nobody else can make it, and nobody has to keep it."""
    return hmac.new(token.encode(), b"multibot webhook", hashlib.sha256).hexdigest()


def _listen(application: Any, launch: Launch) -> None:
    settings = launch.settings
    path = urlsplit(settings.webhook_url).path.rstrip("/")
    try:
        application.run_webhook(
            listen=settings.webhook_listen, port=settings.port, url_path=re.escape(path),
            webhook_url=settings.webhook_url, secret_token=secret_of(launch.token), bootstrap_retries=-1,
        )  # fmt: skip
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        text = f"port {settings.port} of {settings.webhook_listen} is in use: give the bot another one (--port)"
        raise OSError(error.errno, text) from None


async def _stay(application: Any) -> None:
    """Do what ``run_polling`` does, without an updater."""
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGABRT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    async with application:
        if application.post_init:
            await application.post_init(application)
        await application.start()
        await stopped.wait()
        await application.stop()
        if application.post_stop:
            await application.post_stop(application)
    if application.post_shutdown:
        await application.post_shutdown(application)
