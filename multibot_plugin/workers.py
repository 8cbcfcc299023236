"""Work beside an asyncio program's loop, and its end.

``Worker``: one daemon thread that makes one call at a time, and is left behind when it hangs. Not ThreadPoolExecutor:
that one joins its threads at exit, so a single hanging call would keep the program alive.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")


_AGAIN_S = 0.2


async def ended(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel ``tasks`` until all of them are over; what they raise is dropped.

    Once is not enough: ``asyncio.wait_for`` of Python 3.11, which asyncpg calls, loses a cancellation that comes in the
    moment in which its call completes or fails (python/cpython#86296), as every connection does when the server dies.
    """
    waiting = set(tasks)
    while waiting:
        for task in waiting:
            task.cancel()
        over, waiting = await asyncio.wait(waiting, timeout=_AGAIN_S)
        for task in over:
            if not task.cancelled():
                task.exception()  # else asyncio complains that nobody asked


class TooSlow(Exception):
    """The call did not return within its time; it goes on in its thread, its result will be dropped."""


class StillBusy(Exception):
    """A call that was too slow has not returned yet; the new one was not begun."""


def text_of(error: BaseException) -> str:
    """Return what an exception says of itself; its class may be a plugin's, and do anything when it is asked."""
    try:
        return str(error)
    except BaseException:
        return "(it cannot be put into words)"


@dataclass(frozen=True)
class _Job:
    function: Callable[[], Any]
    loop: asyncio.AbstractEventLoop
    answer: asyncio.Future[tuple[Any, BaseException | None]]


class Worker:
    """Calls from one event loop, carried out in turn by one daemon thread (started with the first call)."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._turn = asyncio.Lock()
        self._busy = False

    async def call(self, function: Callable[[], T], timeout_s: float) -> T:
        """Return ``function()``, made in the thread once the calls before it are over.

        Raises what the function raises (SystemExit and its like as RuntimeError), TooSlow after ``timeout_s``, and
        StillBusy without calling anything while an earlier call hangs.
        """
        async with self._turn:
            if self._busy:
                raise StillBusy("the call before this one has not returned yet")
            loop = asyncio.get_running_loop()
            answer: asyncio.Future[tuple[T, BaseException | None]] = loop.create_future()
            self._busy = True
            self._jobs.put(_Job(function, loop, answer))
            self._start()
            try:
                await asyncio.wait({answer}, timeout=timeout_s)
            finally:
                late = not answer.done()
                if late:
                    answer.cancel()
            if late:
                raise TooSlow(f"no answer within {timeout_s:g} s")
            value, error = answer.result()
        if error is None:
            return value
        if isinstance(error, Exception):
            raise error
        raise RuntimeError(f"{type(error).__name__}: {text_of(error)}") from error

    @property
    def busy(self) -> bool:
        """Whether a call has not returned yet, also one that was too slow."""
        return self._busy

    def close(self) -> None:
        """Let the thread end once it is idle."""
        self._jobs.put(None)

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            value, error = None, None
            try:
                value = job.function()
            except BaseException as caught:  # a plugin may raise anything, and the thread has to live on
                error = caught
            try:
                job.loop.call_soon_threadsafe(self._finish, job, value, error)
            except RuntimeError:  # the loop is closed: nobody waits any more
                return

    def _finish(self, job: _Job, value: Any, error: BaseException | None) -> None:
        self._busy = False
        if not job.answer.done():
            job.answer.set_result((value, error))
