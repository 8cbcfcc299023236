"""The executor with real files and child processes: order, bounds, deadline, and what happens when it is cut off."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
from watched import until

from multibot_plugin.home import Home
from multibot_plugin.journal import Journal
from multibot_plugin.supervisor import executor
from multibot_plugin.supervisor.executor import Executor
from multibot_plugin.supervisor.inside.requests import Request, Requests, inbox, results
from multibot_plugin.supervisor.listener import Listener
from multibot_plugin.supervisor.serials import Serials

TOKEN = "123456789:AAabcdefghijklmnopqrstuvwxyz0123456"
# Says in one file that it began and ended, and waits for another one in between.
CHILD = 'echo "$1 $2" >>begun; while [ ! -e go-$2 ]; do sleep 0.02; done; echo "$1 $2" >>ended'


class Place:
    """A state directory, what supervisord asks for in it, and the log of the children."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.home = Home(top, top / "state", top / "run", top / "log")
        self.home.state.mkdir()
        self.requests = Requests(self.home.state, lambda _: None)
        self.executors: list[Executor] = []

    def ask(self, method: str, bot: str = "") -> str:
        return self.requests.ask(method, bot, "")

    def executor(self, script: str = CHILD, **options: Any) -> Executor:
        def command(request: Request) -> Sequence[str]:
            return ["/bin/sh", "-c", f"cd {self.top}; {script}", "sh", request.method, request.bot]

        self.executors.append(Executor(self.home, command, **options))
        return self.executors[-1]

    def let_go(self, *bots: str) -> None:
        for bot in bots:
            (self.top / f"go-{bot}").touch()

    def lines(self, name: str) -> list[str]:
        with contextlib.suppress(FileNotFoundError):
            return (self.top / name).read_text().splitlines()
        return []

    async def ended(self, request: str) -> dict[str, Any]:
        await until(lambda: self.requests.result(request)["state"] in ("done", "failed"))
        return self.requests.result(request)


@contextlib.asynccontextmanager
async def place(top: Path) -> AsyncIterator[Place]:
    made = Place(top)
    try:
        yield made
    finally:
        for executor in made.executors:
            await executor.close()
    assert [child for child in psutil.Process().children(recursive=True) if str(top) in " ".join(cmdline(child))] == []


def cmdline(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []


async def test_requests_about_one_bot_are_carried_out_in_their_order_and_others_beside_them(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        ids = [here.ask("stopBot", "a"), here.ask("startBot", "a"), here.ask("startBot", "b"), here.ask("apply")]
        ours = here.executor()
        ours.look()
        ours.look()  # nothing is begun twice
        await until(lambda: len(here.lines("begun")) == 3)
        assert sorted(here.lines("begun")) == ["apply ", "startBot b", "stopBot a"]
        states = [here.requests.result(i)["state"] for i in ids]
        assert states == ["running", "waiting", "running", "running"]
        here.let_go("b", "")
        assert (await here.ended(ids[2]))["exit_code"] == 0
        assert "startBot a" not in here.lines("begun")
        here.let_go("a")
        await here.ended(ids[1])
        assert [line for line in here.lines("ended") if line.endswith(" a")] == ["stopBot a", "startBot a"]
        assert list(inbox(here.home.state).iterdir()) == []


async def test_only_so_many_are_carried_out_at_once(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        ids = [here.ask("startBot", bot) for bot in "abc"]
        here.executor(at_once=2).look()
        await until(lambda: len(here.lines("begun")) == 2)
        assert here.requests.result(ids[2])["state"] == "waiting"
        here.let_go("a")
        await until(lambda: len(here.lines("begun")) == 3)
        here.let_go("b", "c")
        await here.ended(ids[1])
        await here.ended(ids[2])


async def test_what_takes_too_long_is_killed_and_said_so(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        request = here.ask("startBot", "a")
        here.executor("exec sleep 600", deadline_s=0.2).look()
        found = await here.ended(request)
        assert (found["state"], found["exit_code"]) == ("failed", None)
        assert found["text"] == "cut off: it took longer than 0.2 s"


async def test_a_command_that_cannot_be_begun_has_failed(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        request = here.ask("startBot", "a")
        here.executors.append(Executor(here.home, lambda _: ["/nowhere/at/all"]))
        here.executors[-1].look()
        assert (await here.ended(request))["text"] == "cannot be begun: No such file or directory"


async def test_what_an_earlier_monitor_began_is_told_as_cut_off_and_not_done_again(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        begun, waiting, over = here.ask("startBot", "a"), here.ask("startBot", "b"), here.ask("startBot", "c")
        first = here.executor(at_once=1)
        first.look()
        await until(lambda: here.lines("begun") == ["startBot a"])
        await first.close()
        results(here.home.state).joinpath(f"{over}.json").write_text(json.dumps({"state": "done", "text": "before"}))
        here.let_go("a", "b", "c")
        here.executor().look()
        assert (await here.ended(begun))["text"].startswith("cut off: the monitor ended meanwhile")
        assert (await here.ended(waiting))["state"] == "done"
        assert here.requests.result(over)["text"] == "before"
        assert here.lines("begun") == ["startBot a", "startBot b"]
        assert list(inbox(here.home.state).iterdir()) == []


async def test_what_cannot_be_written_down_is_written_later_and_nothing_is_done_again(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        request = here.ask("startBot", "a")
        ours = here.executor()
        ours.look()
        in_the_way = results(here.home.state) / f"{request}.json"
        in_the_way.mkdir()
        here.let_go("a")
        await until(lambda: ours.unwritten)
        ours.look()
        assert here.requests.result(request)["state"] == "running"
        in_the_way.rmdir()
        ours.look()
        assert (await here.ended(request))["state"] == "done"
        assert not ours.unwritten
        assert here.lines("begun") == ["startBot a"]


async def test_a_result_holds_no_token_and_never_more_than_supervisord_reads(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        out = f"import json; print(json.dumps({{'text': '{TOKEN}', 'much': 'é' * 300_000}}))"
        request = here.ask("startBot", "a")
        here.executor(f'{sys.executable} -c "{out}"; echo {TOKEN} >&2').look()
        found = await here.ended(request)
        assert (found["text"], found["result"]) == ("123456789:<redacted>", None)
        assert TOKEN not in results(here.home.state).joinpath(f"{request}.json").read_text()


async def test_junk_is_removed_and_old_results_are_swept(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        ours = here.executor()
        ours.look()
        for name in ("0.json", f"{'0' * 20}.json"):
            (inbox(here.home.state) / name).write_text("{}")
        ours.look()
        assert list(inbox(here.home.state).iterdir()) == []
        for number in range(503):
            results(here.home.state).joinpath(f"{number:020x}.json").touch()
        for name in (f"{502:020x}.json", ".half.tmp"):
            results(here.home.state).joinpath(name).touch()
            os.utime(results(here.home.state) / name, (1, 1))
        ours.sweep()
        left = sorted(path.name for path in results(here.home.state).iterdir())
        assert (left[0], left[-1], len(left)) == (f"{3:020x}.json", f"{501:020x}.json", 499)


async def test_a_request_that_was_told_of_is_begun_without_waiting_for_the_next_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executor, "LOOK_EVERY_S", 3600.0)
    (tmp_path / "state").mkdir()
    home = Home(tmp_path, tmp_path / "state", tmp_path / "run", tmp_path / "log")
    monkeypatch.setenv("MULTIBOT_HOME", str(tmp_path))
    told = [asyncio.Event(), asyncio.Event()]
    reader = asyncio.StreamReader()
    null = os.open(os.devnull, os.O_WRONLY)
    home.run.mkdir(exist_ok=True)
    serials = Serials(home.run / "events", "test")
    listener = Listener(null, Journal(home.journal), *told, "test", serials)
    tasks = [asyncio.create_task(executor.run(home, told[1])), asyncio.create_task(listener.run(reader))]
    requests = Requests(home.state, lambda request: say(reader, "REMOTE_COMMUNICATION", f"type:multibot\n{request}"))
    await until(results(home.state).exists)
    say(reader, "REMOTE_COMMUNICATION", "type:stranger\n")
    request = requests.ask("startBot", "echo", "")
    await until(lambda: requests.result(request)["state"] == "failed")
    assert requests.result(request)["text"].startswith("no installation in ")
    assert not told[0].is_set()  # the monitor has nothing to look at
    reader.feed_eof()
    await tasks[1]
    tasks[0].cancel()
    await asyncio.wait(tasks)
    os.close(null)


def say(reader: asyncio.StreamReader, name: str, payload: str) -> None:
    head = f"ver:3.0 serial:1 pool:multibot poolserial:1 eventname:{name} len:{len(payload)}"
    reader.feed_data(f"{head}\n{payload}".encode())
