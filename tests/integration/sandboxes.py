"""What the tests of the sandbox share: a sandbox in the test's loop, and python-telegram-bot as its client."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager

from telegram import Bot
from telegram.ext import Application, ApplicationBuilder
from telegram.request import HTTPXRequest

from multibot_plugin.sandbox import server
from multibot_plugin.sandbox.client import BotView, Sandbox
from multibot_plugin.sandbox.control import describe
from multibot_plugin.sandbox.faults import Fault
from multibot_plugin.sandbox.model import FaultKind, usual_failure
from multibot_plugin.sandbox.state import ADA
from multibot_plugin.sandbox.state import Bot as Known

_NUMBERS = itertools.count(7001)
CHAT = ADA.id


def new_token() -> str:
    return f"{next(_NUMBERS)}:{'A' * 35}"


async def until(condition: Callable[[], object], timeout_s: float = 10.0) -> None:
    """Wait for a condition; TimeoutError when it does not come true."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - the condition is any
            await asyncio.sleep(0.005)


class Place:
    """A running sandbox with one bot known to it."""

    def __init__(self, running: server.Running) -> None:
        self.running, self.world, self.url = running, running.world, running.url
        self.token = new_token()
        self.world.register(self.token)

    @property
    def bot(self) -> Known:
        return self.world.find(self.token)

    @property
    def view(self) -> BotView:
        return BotView(**describe(self.bot))

    def say(self, text: str = "hi") -> None:
        self.world.say(self.bot, text, CHAT)

    def fault(self, kind: FaultKind | int, *methods: str, for_s: float | None = None, times: int | None = None) -> None:
        status = kind if isinstance(kind, int) else 500
        self.world.add_fault(Fault(
            self.bot.number, "status" if isinstance(kind, int) else kind, frozenset(methods or ("getupdates",)),
            self.world.mono() + for_s if for_s is not None else None, times, usual_failure(status),
        ))  # fmt: skip

    @asynccontextmanager
    async def client(self, token: str | None = None, base: str = "/bot") -> AsyncIterator[Bot]:
        """Give a client of python-telegram-bot that has not called anything yet."""
        requests = [HTTPXRequest(httpx_kwargs={"trust_env": False}) for _ in range(2)]
        bot = Bot(token or self.token, base_url=self.url + base, request=requests[0], get_updates_request=requests[1])
        try:
            yield bot
        finally:
            for request in requests:
                await request.shutdown()

    @asynccontextmanager
    async def application(self, prepare: Callable[[Application], None]) -> AsyncIterator[Application]:  # type: ignore[type-arg]
        """Run an Application with polling for the time of the block."""
        builder = ApplicationBuilder().token(self.token).base_url(self.url + "/bot")
        requests = [HTTPXRequest(httpx_kwargs={"trust_env": False}) for _ in range(2)]
        application = builder.request(requests[0]).get_updates_request(requests[1]).build()
        prepare(application)
        async with application:
            assert application.updater is not None
            await application.start()
            await application.updater.start_polling()
            yield application
            await application.updater.stop()
            await application.stop()


@asynccontextmanager
async def place(strict: bool = False) -> AsyncIterator[Place]:
    running = await server.start(strict=strict)
    try:
        yield Place(running)
    finally:
        await running.close()


@contextmanager
def threaded(port: int = 0) -> Iterator[Sandbox]:
    """Run a sandbox in a thread, for a test without a loop of its own."""
    started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event, str]] = Future()

    async def serve() -> None:
        ended = asyncio.Event()
        running = await server.start(port=port)
        started.set_result((asyncio.get_running_loop(), ended, running.url))
        await ended.wait()
        await running.close()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    loop, ended, url = started.result(10)
    try:
        yield Sandbox(url)
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join()
