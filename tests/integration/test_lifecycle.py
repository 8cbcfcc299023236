"""The table of states and events (health/lifecycle.py) against a real supervisord and the real runner."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
from system import System, alive, wait_for

from multibot_plugin.health.lifecycle import TABLE, WISHES, Act, Event, State, state_of
from multibot_plugin.supervisor.client import Supervisor
from multibot_plugin.supervisor.faults import program
from multibot_runner.protocol import CRASHED, STOPPED, Exit, Run, encode, lifecycle, replace_file
from multibot_runner.readers import read_heartbeat, read_runs

# What a bot does is in a file: "live", a number (leave with it), or "deaf" (live, and ignore SIGTERM).
BOT = """#!/bin/sh
while :; do
    read -r act < "$0.$BOT" || act=live
    case $act in
        live) trap - TERM ;;
        deaf) trap '' TERM; : > deaf ;;
        *) exit "$act" ;;
    esac
    sleep 0.1
done
"""
# What happens by itself and is not provoked here.
ELSEWHERE = {
    # A runner at the lock runs no code that could end; what it does before that is over too soon to be met.
    *((event, State.STARTING) for event in (Event.DEATH, Event.ONE_TOO_MANY, Event.EXIT_FINAL, Event.EXIT_FINISHED)),
    (Event.ONE_TOO_MANY, State.STOPPING),  # as DEATH: who is stopped, whose deaths are not counted
}
BOTS = {state: f"is-{state.name.lower().replace('_', '-')}" for state in State}


class Stage:
    """One bot for each state, in it whenever ``set`` was called."""

    def __init__(self, system: System) -> None:
        self.system, self.home = system, system.home
        self.supervisor = Supervisor.of(system.home)
        self.script = system.bots / "states"
        self.script.write_text(BOT)
        self.script.chmod(0o755)
        self.holder: subprocess.Popen[bytes] | None = None
        for state, bot in BOTS.items():
            self.act(bot, "live")
            most = {State.RUNNING: "4", State.QUARANTINED: "3"}.get(state, "10")
            retry = "2s" if state is State.RUNNING else "3600s"
            # The one that is stopping stays so until it is killed.
            patience = "60s" if state is State.STOPPING else "1s"
            settings = ("--stop-wait-s", patience, "--restart", "on-failure", "--quarantine-after", most)
            settings += ("--quarantine-retry-s", retry)
            words = ("--command", str(self.script), "--env", f"BOT={bot}", "--no-check", "--no-start")
            system.create_bot(bot, *words, *settings)
            self.start(bot)
        for bot in BOTS.values():
            wait_for(lambda: self.runs(bot), f"{bot}, a first time")  # noqa: B023

    def act(self, bot: str, what: str) -> None:
        file = self.script.with_name(f"states.{bot}")
        file.with_suffix(".new").write_text(f"{what}\n")
        file.with_suffix(".new").replace(file)

    def row(self, bot: str) -> dict[str, Any]:
        """Return supervisord's row with what the runner itself says of its phase."""
        row, heartbeat = self.supervisor.row(bot), read_heartbeat(self.home.bot(bot))
        phase = heartbeat.phase if heartbeat and heartbeat.pid == row["pid"] else None
        return {**row, "state": lifecycle(row["statename"], row["exit_code"] or 0, phase)}

    def wait(self, bot: str, *states: State) -> dict[str, Any]:
        row: dict[str, Any] = {}

        def there() -> bool:
            row.update(self.row(bot))
            return state_of(row) in states

        wait_for(there, f"{bot} in {states}: {row}")
        return row

    def runs(self, bot: str) -> bool:
        """Whether the bot's own code runs."""
        heartbeat = read_heartbeat(self.home.bot(bot))
        return heartbeat is not None and heartbeat.pid == self.row(bot)["pid"] and heartbeat.phase == "running"

    def history(self, bot: str, deaths: int) -> None:
        """Have the next start find so many deaths in a row."""
        paths, now = self.home.bot(bot), 1_700_000_000.0
        died = [Run(now - n, 1.0, 1, "d", exit=Exit(now - n, CRASHED, "ValueError: no", code=1)) for n in range(deaths)]
        begin = Run(now - 90, 1.0, 1, "d", exit=Exit(now - 90, STOPPED, "stopped", code=0))
        owner = paths.run_dir.stat()
        replace_file(paths.runs, encode([*died, begin]), owner=(owner.st_uid, owner.st_gid))

    def start(self, bot: str) -> None:
        self.supervisor.start(program(bot), None)

    def set(self) -> dict[State, dict[str, Any]]:
        """Bring every bot into its state; return their rows."""
        self.clear()
        for state, bot in BOTS.items():
            self.act(bot, {"GIVEN_UP": "78", "FINISHED": "0", "STOPPING": "deaf"}.get(state.name, "live"))
            self.history(bot, {"BACKING_OFF": 8, "QUARANTINED": 3}.get(state.name, 0))
        self.hold(BOTS[State.STARTING])
        for state, bot in BOTS.items():
            if state is not State.STOPPED:
                self.start(bot)
        rows = {state: self.wait(bot, state) for state, bot in BOTS.items() if state is not State.STOPPING}
        wait_for(lambda: self.runs(BOTS[State.RUNNING]), "a bot that runs")
        rows[State.STOPPING] = self.stop_deaf()
        return rows

    def stop_deaf(self) -> dict[str, Any]:
        """Stop the bot that ignores SIGTERM, once it does."""
        bot = BOTS[State.STOPPING]
        deaf = self.home.bot(bot).work / "deaf"
        wait_for(deaf.exists, "a bot that ignores SIGTERM")
        deaf.unlink()
        self.supervisor.stop(program(bot), None)
        return self.wait(bot, State.STOPPING)

    def clear(self) -> None:
        self.let_go()
        for state, bot in BOTS.items():
            (self.home.bot(bot).work / "deaf").unlink(missing_ok=True)
            self.supervisor.stop(program(bot), None)
            if state is State.STOPPING:
                self.kill(bot)
        for bot in BOTS.values():
            self.wait(bot, State.STOPPED, State.GIVEN_UP, State.FINISHED)
            self.act(bot, "live")

    def kill(self, bot: str) -> None:
        with contextlib.suppress(ProcessLookupError):
            if pid := self.row(bot)["pid"]:
                os.kill(int(pid), signal.SIGKILL)

    def hold(self, bot: str) -> None:
        """Have a person run the bot in a terminal: supervisord's process waits at the lock."""
        words = [*self.system.cli, "--home", str(self.home.config), "bot", "run", bot, "--no-check"]
        environment = self.system.environment
        self.holder = subprocess.Popen(words, stderr=subprocess.DEVNULL, env=environment, start_new_session=True)
        children = psutil.Process(self.holder.pid).children
        wait_for(children, "the bot in the terminal")

    def let_go(self) -> None:
        if self.holder is not None:
            self.holder.terminate()
            self.holder.wait(30)
            self.holder = None


@pytest.fixture(scope="module")
def stage(installation: System) -> Iterator[Stage]:
    made = Stage(installation)
    try:
        yield made
    finally:
        made.clear()
        made.supervisor.close()
        for bot in BOTS.values():
            installation.run("bot", "delete", bot, "--yes", "--purge")


@contextlib.contextmanager
def letting_go(stage: Stage, before: dict[State, dict[str, Any]]) -> Iterator[None]:
    """Let the bot in the terminal and the deaf one end once a command has decided what it does: others have changed."""
    over = threading.Event()

    def watch() -> None:
        with contextlib.closing(Supervisor.of(stage.home)) as supervisor:
            while not over.wait(0.05):
                rows = {state: supervisor.row(BOTS[state]) for state in (State.RUNNING, State.STOPPED)}
                if any(row["pid"] != before[state]["pid"] for state, row in rows.items()):
                    break
        stage.let_go()
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(before[State.STOPPING]["pid"]), signal.SIGKILL)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


@pytest.mark.parametrize("event", [Event.START, Event.STOP, Event.STOP_NOW, Event.RESTART])
def test_what_a_person_does_in_each_state(stage: Stage, event: Event) -> None:
    before = stage.set()
    for bot in (BOTS[State.GIVEN_UP], BOTS[State.FINISHED]):
        stage.act(bot, "live")
    with letting_go(stage, before):
        answer = stage.system.json(*str(event).split(), *BOTS.values())
    told = {bot["id"]: bot["text"] for bot in answer["bots"]}
    for state, bot in BOTS.items():
        cell = TABLE[event][state]
        assert cell is not None
        assert told[bot].startswith(cell.words), (state, told[bot])
        after = stage.row(bot)
        if cell.act == Act.LEAVE:
            assert (after["pid"], state_of(after)) == (before[state]["pid"], cell.then), state
        elif cell.then == State.STOPPING:
            assert state_of(after) == State.STOPPED, state
        elif state is not State.STARTING or cell.act == Act.STOP_START:
            assert after["pid"] not in (None, before[state]["pid"]), state
            assert state_of(after) in (State.STARTING, State.RUNNING), state
        else:
            assert after["pid"] == before[state]["pid"]


def test_a_change_in_each_state(stage: Stage) -> None:
    before = stage.set()
    for bot in (BOTS[State.GIVEN_UP], BOTS[State.FINISHED]):
        stage.act(bot, "live")
    # Whatever stands still by a person's wish stays so; the others are wanted.
    wanted = {bot: state not in (State.STOPPED, State.FINISHED) for state, bot in BOTS.items()}
    stage.supervisor.set_autostart(BOTS[State.FINISHED], True)  # or it would be started for that
    stage.supervisor.set_autostart(BOTS[State.STOPPING], False)  # a stop of our own: others are respected
    stage.system.sql(
        'UPDATE bot_configs SET enabled = id <> $1, settings = settings || \'{"backoff_reset_s": "599s"}\'',
        BOTS[State.STOPPED],
    )
    with letting_go(stage, before):
        said = dict(line.split(": ", 1) for line in stage.system.run("apply").stderr.splitlines() if ": " in line)
    for state, bot in BOTS.items():
        cell = TABLE[Event.CHANGE][state]
        assert cell is not None
        assert cell.words in said[bot].partition(" (")[0], state
        after = stage.wait(bot, State.STARTING, State.RUNNING) if wanted[bot] else stage.row(bot)
        assert after["digest"] != before[state]["digest"], state
        assert wanted[bot] == (cell.then == State.STARTING)
        assert wanted[bot] or state_of(after) == state


def test_a_run_in_a_terminal_in_each_state(stage: Stage) -> None:
    stage.set()
    for state in (State.STOPPING, State.STARTING, State.RUNNING, State.BACKING_OFF, State.QUARANTINED):
        said = stage.system.run("bot", "run", BOTS[state], "--no-check", code=6).stderr
        assert f"bot {BOTS[state]!r} {TABLE[Event.RUN][state].words} (pid " in said  # type: ignore[union-attr]
    for state in (State.STOPPED, State.GIVEN_UP, State.FINISHED):
        stage.act(BOTS[state], "7")
        stage.system.run("bot", "run", BOTS[state], "--no-check", code=7)
        assert state_of(stage.row(BOTS[state])) == state


def begun_by(run: Run) -> State:
    """Return the state in which a run began."""
    return State.BACKING_OFF if run.waited_s > 0.0 else State.RUNNING


def test_what_happens_by_itself_in_each_state(stage: Stage) -> None:
    begun = stage.set()
    seen: dict[tuple[Event, State], State] = {}

    def note(event: Event, state: State, then: State, bot: str = "") -> None:
        seen[event, state] = state_of(stage.wait(bot or BOTS[state], then))

    def kill(state: State) -> None:
        pid = int(stage.row(BOTS[state])["pid"])
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: stage.row(BOTS[state])["pid"] not in (None, pid), "a new runner")

    # stopping: whatever it leaves with, it has been stopped
    stopped = BOTS[State.STOPPING]
    for event, act in ((Event.EXIT_FINAL, "78"), (Event.EXIT_FINISHED, "0"), (Event.DEATH, "3"), (Event.KILLED, "")):
        if seen:
            stage.act(stopped, "deaf")
            stage.start(stopped)
            stage.stop_deaf()
        if act:
            stage.act(stopped, act)
        else:
            os.kill(int(stage.row(stopped)["pid"]), signal.SIGKILL)
        note(event, State.STOPPING, State.STOPPED)
        assert not act or read_runs(stage.home.bot(stopped))[0].exit.cause == STOPPED  # type: ignore[union-attr]
        note(Event.STOP_DONE, State.STOPPING, State.STOPPED)
    # running: what it leaves with
    for event, act, then in ((Event.EXIT_FINAL, "78", State.GIVEN_UP), (Event.EXIT_FINISHED, "0", State.FINISHED)):
        stage.act(BOTS[then], "live")
        stage.start(BOTS[then])
        wait_for(lambda: stage.runs(BOTS[then]), "its code")  # noqa: B023
        stage.act(BOTS[then], act)
        note(event, State.RUNNING, then, BOTS[then])
    # those that wait, at the lock or to start again, wait anew when they are killed
    for state in (State.STARTING, State.BACKING_OFF, State.QUARANTINED):
        kill(state)
        note(Event.KILLED, state, state)
    for state in (State.BACKING_OFF, State.QUARANTINED):
        (told,) = wait_for(lambda: stage.system.audit(BOTS[state], "bot.killed"), "the cause in the audit log")  # noqa: B023
        assert told["detail"] == {
            "pid": begun[state]["pid"],
            "cause": "killed by SIGKILL from outside, not by multibot",
        }
    # the lock is free: the code runs
    stage.let_go()
    note(Event.UP, State.STARTING, State.RUNNING)
    wait_for(lambda: stage.runs(BOTS[State.STARTING]), "its code")
    # four deaths: after the first it is back at once, after the next two it waits, the fourth is one too many
    kill(State.RUNNING)
    wait_for(lambda: stage.runs(BOTS[State.RUNNING]), "its code again")
    kill(State.RUNNING)
    stage.act(BOTS[State.RUNNING], "3")
    note(Event.ONE_TOO_MANY, State.RUNNING, State.QUARANTINED)
    _, fourth, third, second, first, *_ = read_runs(stage.home.bot(BOTS[State.RUNNING]))
    assert (first.waited_s, second.waited_s) == (0.0, 0.0)
    # A wait is over too soon to be looked at; the runner writes down how long it was, and then that its code ended.
    assert second.exit is None  # killed
    assert [run.exit and run.exit.code for run in (third, fourth)] == [3, 3]
    seen[Event.KILLED, State.RUNNING] = begun_by(third)
    seen[Event.DEATH, State.RUNNING] = begun_by(fourth)
    seen[Event.WAIT_OVER, State.BACKING_OFF] = State.RUNNING if fourth.waited_s and fourth.exit else State.BACKING_OFF
    stage.act(BOTS[State.RUNNING], "live")
    note(Event.RETRY_DUE, State.QUARANTINED, State.RUNNING, BOTS[State.RUNNING])
    events = [event for event in Event if event not in (*WISHES, Event.SUPERVISORD_DIED)]
    happen = {(event, state): cell.then for event in events for state, cell in TABLE[event].items() if cell}
    assert seen == {cell: then for cell, then in happen.items() if cell not in ELSEWHERE}


def test_the_death_of_supervisord_in_each_state(stage: Stage) -> None:
    wanted = BOTS[State.RUNNING]
    stage.system.sql("UPDATE bot_configs SET enabled = id = $1", wanted)
    stage.system.run("apply")
    before = stage.set()
    os.kill(stage.system.supervisord_pid, signal.SIGKILL)
    stage.act(BOTS[State.STOPPING], "3")  # which ignores SIGTERM; its patience is not waited for
    pids = [row["pid"] for row in before.values() if row["pid"]]
    wait_for(lambda: not any(map(alive, pids)), "no process")
    told = {row["id"]: state_of(row) for row in stage.system.json("list", code=5)["bots"]}
    stage.system.run("start")
    wait_for(lambda: stage.runs(wanted), "the bot that is wanted")
    for state, bot in BOTS.items():
        cell = TABLE[Event.SUPERVISORD_DIED][state]
        assert cell is not None
        assert told[bot] == cell.then, state
        assert bot == wanted or state_of(stage.row(bot)) == cell.then, state
