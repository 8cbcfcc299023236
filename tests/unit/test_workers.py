from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest
from watched import until

from multibot_plugin.workers import StillBusy, TooSlow, Worker, ended


async def once_free(worker: Worker, function: Callable[[], str]) -> str:
    """Return ``function()`` as soon as the call that hangs has returned."""
    async with asyncio.timeout(20):
        while True:
            try:
                return await worker.call(function, 5)
            except StillBusy:
                await asyncio.sleep(0.005)


async def test_a_call_returns_what_the_function_returns_and_raises_what_it_raises() -> None:
    worker = Worker("test")
    assert await worker.call(lambda: 3, 5) == 3
    with pytest.raises(KeyError):
        await worker.call(lambda: {}["no"], 5)
    assert await worker.call(threading.current_thread, 5) is not threading.main_thread()
    worker.close()


@pytest.mark.parametrize("raised", [SystemExit(3), KeyboardInterrupt(), GeneratorExit()])
async def test_what_would_end_a_program_ends_only_the_call(raised: BaseException) -> None:
    def leave() -> None:
        raise raised

    worker = Worker("test")
    with pytest.raises(RuntimeError, match=type(raised).__name__):
        await worker.call(leave, 5)
    assert await worker.call(lambda: 1, 5) == 1
    worker.close()


async def test_a_call_that_hangs_is_left_and_no_other_begun_until_it_returns() -> None:
    worker, release, calls = Worker("test"), threading.Event(), []
    with pytest.raises(TooSlow):
        await worker.call(release.wait, 0.01)
    with pytest.raises(StillBusy):
        await worker.call(lambda: calls.append(1), 5)
    assert calls == []
    release.set()
    assert await once_free(worker, lambda: "again") == "again"
    worker.close()


async def test_calls_at_the_same_time_wait_for_their_turn() -> None:
    worker, order = Worker("test"), []
    await asyncio.gather(*(worker.call(lambda n=n: order.append(n), 5) for n in range(5)))
    assert order == list(range(5))
    worker.close()


async def test_a_caller_that_is_cancelled_leaves_the_worker_usable() -> None:
    worker, began, release = Worker("test"), threading.Event(), threading.Event()

    def hang() -> None:
        began.set()
        release.wait()

    task = asyncio.create_task(worker.call(hang, 60))
    await until(began.is_set)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    release.set()
    assert await once_free(worker, lambda: "again") == "again"
    worker.close()


def test_a_thread_outlives_its_loop_without_a_word() -> None:
    worker, release = Worker("test"), threading.Event()

    async def leave_it() -> None:
        with pytest.raises(TooSlow):
            await worker.call(release.wait, 0.01)

    asyncio.run(leave_it())
    release.set()
    assert worker._thread is not None
    worker._thread.join(5)
    assert not worker._thread.is_alive()


async def test_a_task_that_loses_a_cancellation_is_ended_all_the_same() -> None:
    lost = []

    async def loses_one() -> None:
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                if lost:
                    raise
                lost.append("one")

    async def fails() -> None:
        raise RuntimeError("on its own")

    tasks = [asyncio.create_task(loses_one()), asyncio.create_task(fails())]
    await asyncio.sleep(0)
    async with asyncio.timeout(20):
        await ended(tasks)
    assert [task.done() for task in tasks] == [True, True]
    assert lost == ["one"]
