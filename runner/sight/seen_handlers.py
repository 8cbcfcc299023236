"""Libraries that call a bot's handlers: when they begin with an update, when they are done, and what went wrong."""

from __future__ import annotations

import functools
import threading
from contextvars import ContextVar
from typing import Any, List, Optional

from multibot_runner.sight.handling import Handling


def _ids(updates: Any) -> List[int]:
    """Return the numbers of what are updates; a bot may put other things into a queue of updates, too."""
    found = (getattr(update, "update_id", None) for update in updates)
    return [number for number in found if isinstance(number, int)]


def patch_telegram(handling: Handling, telegram: Any) -> None:
    """python-telegram-bot: a new update read is one that arrived, also by webhook, before it waits in the queue."""
    plain = telegram.Update.de_json.__func__

    @functools.wraps(plain)
    def de_json(cls: Any, *args: Any, **options: Any) -> Any:
        update = plain(cls, *args, **options)
        for number in _ids([update]):
            handling.delivered(number)
        return update

    telegram.Update.de_json = classmethod(de_json)


def patch_telegram_ext(handling: Handling, ext: Any) -> None:
    """python-telegram-bot. A handler with ``block=False`` is done when it is begun; its errors are seen."""
    process, error = ext.Application.process_update, ext.Application.process_error

    @functools.wraps(process)
    async def process_update(self: Any, update: Any) -> Any:
        updates = _ids([update])
        handling.begin(updates)
        try:
            return await process(self, update)
        finally:
            handling.end(updates)

    @functools.wraps(error)
    async def process_error(self: Any, update: Any, *args: Any, **options: Any) -> Any:
        if update is not None:  # else the error of a poll or a job
            handling.failed()
        return await error(self, update, *args, **options)

    ext.Application.process_update, ext.Application.process_error = process_update, process_error


def patch_aiogram(handling: Handling, aiogram: Any) -> None:
    """aiogram 3, polling and webhooks; errors also where an error handler of the bot takes them."""
    feed, propagate = aiogram.Dispatcher.feed_update, aiogram.Dispatcher.propagate_event

    @functools.wraps(feed)
    async def feed_update(self: Any, bot: Any, update: Any, **data: Any) -> Any:
        updates = _ids([update])
        handling.begin(updates)
        try:
            return await feed(self, bot, update, **data)
        finally:
            handling.end(updates)

    @functools.wraps(propagate)
    async def propagate_event(self: Any, update_type: str, *args: Any, **data: Any) -> Any:
        if update_type == "error":
            handling.failed()
        return await propagate(self, update_type, *args, **data)

    aiogram.Dispatcher.feed_update, aiogram.Dispatcher.propagate_event = feed_update, propagate_event


class _Batch:
    """Updates that a TeleBot works on, in some threads: done when the last of its tasks is."""

    def __init__(self, handling: Handling, updates: List[int]) -> None:
        self._handling = handling
        self._updates = updates
        self._lock = threading.RLock()
        self._open = 0

    def enter(self) -> None:
        with self._lock:
            self._open += 1

    def leave(self) -> None:
        with self._lock:
            self._open -= 1
            done = self._open == 0
        if done:
            self._handling.end(self._updates)


_batch: ContextVar[Optional[_Batch]] = ContextVar("_batch", default=None)  # whose tasks are being handed out
_in_handler: ContextVar[bool] = ContextVar("_in_handler", default=False)


def patch_telebot(handling: Handling, telebot: Any) -> None:
    """pyTelegramBotAPI: updates come in batches, their handlers run in threads (or not)."""
    bot = telebot.TeleBot
    process, execute = bot.process_new_updates, bot._exec_task
    handle: Any = getattr(bot, "_handle_exception", None)

    @functools.wraps(process)
    def process_new_updates(self: Any, updates: Any) -> Any:
        batch = _Batch(handling, _ids(updates))
        handling.begin(_ids(updates))
        before = _batch.set(batch)
        batch.enter()
        try:
            return process(self, updates)
        finally:
            batch.leave()
            _batch.reset(before)

    @functools.wraps(execute)
    def exec_task(self: Any, task: Any, *args: Any, **options: Any) -> Any:
        batch = _batch.get()
        if batch is None:
            return execute(self, task, *args, **options)
        batch.enter()

        @functools.wraps(task)
        def run(*args: Any, **options: Any) -> Any:
            before = _in_handler.set(True)
            try:
                return task(*args, **options)
            except Exception:
                handling.failed()
                raise
            finally:
                _in_handler.reset(before)
                batch.leave()

        return execute(self, run, *args, **options)

    def handle_exception(self: Any, exception: Any) -> Any:
        if _in_handler.get():  # else the error of a poll
            handling.failed()
        return handle(self, exception)

    bot.process_new_updates, bot._exec_task = process_new_updates, exec_task
    if handle is not None:  # it came with 4.15
        bot._handle_exception = handle_exception


def patch_async_telebot(handling: Handling, module: Any) -> None:
    """pyTelegramBotAPI's AsyncTeleBot, which catches what its handlers raise."""
    bot = module.AsyncTeleBot
    process: Any = bot.process_new_updates
    handle: Any = getattr(bot, "_handle_exception", None)

    @functools.wraps(process)
    async def process_new_updates(self: Any, updates: Any) -> Any:
        numbers = _ids(updates)
        handling.begin(numbers)
        before = _in_handler.set(True)
        try:
            return await process(self, updates)
        finally:
            _in_handler.reset(before)
            handling.end(numbers)

    async def handle_exception(self: Any, exception: Any) -> Any:
        if _in_handler.get():
            handling.failed()
        return await handle(self, exception)

    bot.process_new_updates = process_new_updates
    if handle is not None:
        bot._handle_exception = handle_exception
