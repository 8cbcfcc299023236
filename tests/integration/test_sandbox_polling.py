"""Long polls over real sockets: offset, redelivery, faults, and clients that go."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from sandboxes import Place, place, until
from telegram.error import NetworkError, TimedOut


@pytest.fixture
async def sandbox() -> AsyncIterator[Place]:
    async with place() as made:
        yield made


async def test_a_poll_waits_for_the_update_and_gets_it_again_until_it_is_confirmed(sandbox: Place) -> None:
    async with sandbox.client() as bot, sandbox.client() as restarted:
        poll = asyncio.create_task(bot.get_updates(timeout=30))
        await until(lambda: sandbox.view.polls_open)
        sandbox.say("one")
        (update,) = await poll
        assert (await restarted.get_updates(timeout=30)) == (update,)
        assert await restarted.get_updates(offset=update.update_id + 1, timeout=0) == ()
        assert await bot.get_updates(timeout=0) == ()
    assert (sandbox.view.delivered, sandbox.view.redelivered) == (2, 1)


async def test_a_poll_ends_empty_at_its_deadline_and_at_once_without_one(sandbox: Place) -> None:
    async with sandbox.client() as bot:
        assert await bot.get_updates(timeout=0) == ()
        assert await bot.get_updates(timeout=1) == ()
    assert (sandbox.view.polls, sandbox.view.polls_open) == (2, 0)


async def test_limit_and_negative_offset_reach_the_queue(sandbox: Place) -> None:
    for text in "abcd":
        sandbox.say(text)
    async with sandbox.client() as bot:
        assert [u.message.text for u in await bot.get_updates(limit=2) if u.message] == ["a", "b"]
        assert [u.message.text for u in await bot.get_updates(offset=-1) if u.message] == ["d"]
        assert len(await bot.get_updates()) == 1


async def test_allowed_updates_are_remembered(sandbox: Place) -> None:
    async with sandbox.client() as bot:
        await bot.get_updates(allowed_updates=["callback_query"])
        sandbox.say("not wanted")
        assert await bot.get_updates() == ()
        await bot.get_updates(allowed_updates=[])
        sandbox.say("wanted")
        assert len(await bot.get_updates()) == 1


async def test_a_client_that_closes_its_connection_leaves_no_open_poll(sandbox: Place) -> None:
    async with sandbox.client() as bot, sandbox.client() as next_one:
        poll = asyncio.create_task(bot.get_updates(timeout=30))
        await until(lambda: sandbox.view.polls_open == 1)
        poll.cancel()
        await asyncio.wait([poll])
        await until(lambda: sandbox.view.polls_open == 0)
        sandbox.say()
        assert len(await next_one.get_updates(timeout=30)) == 1
    assert (sandbox.view.conflicts, sandbox.view.redelivered) == (0, 0)


async def test_a_poll_right_after_its_predecessor_died_is_no_conflict(sandbox: Place) -> None:
    for _ in range(20):
        _, writer = await asyncio.open_connection(*sandbox.running.url.removeprefix("http://").split(":"))
        before = sandbox.view.polls
        writer.write(f"GET /bot{sandbox.token}/getUpdates?timeout=30 HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        await until(lambda before=before: sandbox.view.polls > before)  # type: ignore[misc]
        writer.transport.abort()
    assert sandbox.view.conflicts == 0


async def test_hang_holds_the_poll_already_open_and_the_next_ones(sandbox: Place) -> None:
    async with sandbox.client() as bot:
        poll = asyncio.create_task(bot.get_updates(timeout=1, read_timeout=30))
        await until(lambda: sandbox.view.polls_open)
        sandbox.fault("hang")
        await until(lambda: sandbox.view.faults)
        sandbox.say()
        with pytest.raises(TimedOut):
            await bot.get_updates(timeout=0, read_timeout=0.2)
        assert not poll.done()
        assert await bot.get_me()
        sandbox.world.faults.clear(sandbox.bot.number)
        assert len(await poll) == 1
    assert sandbox.view.last_success_at is not None


async def test_a_fault_ends_after_its_time(sandbox: Place) -> None:
    async with sandbox.client() as bot:
        assert not await bot.get_updates(timeout=0)  # connected: the next one comes while the fault lasts
        sandbox.fault("hang", for_s=1.0)
        sandbox.say()
        assert len(await bot.get_updates(timeout=1)) == 1
        assert len(await bot.get_updates(timeout=1)) == 1
    assert sandbox.view.faults == 1


async def test_a_fault_ends_after_so_many_calls(sandbox: Place) -> None:
    sandbox.fault(502, times=2)
    async with sandbox.client() as bot:
        for _ in range(2):
            with pytest.raises(NetworkError):
                await bot.get_updates()
        assert await bot.get_updates() == ()


async def test_a_dropped_call_does_nothing_and_a_lost_answer_hides_what_was_done(sandbox: Place) -> None:
    async with sandbox.client() as bot:
        for kind, texts in (("drop", []), ("lose", ["lose"])):
            sandbox.fault(kind, "sendmessage", times=1)  # type: ignore[arg-type]
            with pytest.raises(NetworkError):
                await bot.send_message(1001, kind)
            assert [e.text for e in sandbox.world.entries] == texts


async def test_an_update_whose_answer_was_lost_comes_again(sandbox: Place) -> None:
    sandbox.fault("lose", times=1)
    sandbox.say()
    async with sandbox.client() as bot:
        with pytest.raises(NetworkError):
            await bot.get_updates(timeout=1)
        assert len(await bot.get_updates(timeout=1)) == 1
    assert sandbox.view.redelivered == 1


async def test_closing_the_sandbox_ends_open_polls_as_a_restart(sandbox: Place) -> None:
    async with sandbox.client() as bot:
        poll = asyncio.create_task(bot.get_updates(timeout=30))
        await until(lambda: sandbox.view.polls_open)
        await sandbox.running.close()
        with pytest.raises(NetworkError, match="restart"):
            await poll
