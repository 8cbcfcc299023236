"""supervisord killed, stopped, started: no orphan, never two pollers, and a stop stays a stop."""

from __future__ import annotations

import os
import signal

from system import System, alive, wait_for


def test_after_a_kill_of_supervisord_nothing_lives_on_and_a_start_has_one_poller_each(system: System) -> None:
    for form in ("build", "script", "command"):
        system.create_form(form, form)
    system.wait_polling("build", "script", "command")
    pid = system.supervisord_pid
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not system.processes(), "no orphan")
    assert [system.polls(b) for b in ("build", "script", "command")] == [0, 0, 0]
    system.run("start")
    system.wait_polling("build", "script", "command")
    for bot in ("build", "script", "command"):
        system.answers(bot)
    assert system.supervisord_pid != pid


def test_a_start_right_after_the_kill_meets_no_ghost(system: System) -> None:
    system.create_form("script", "script")
    system.wait_polling("script")
    os.kill(system.supervisord_pid, signal.SIGKILL)
    system.run("start")
    system.wait_polling("script")
    system.answers("script")


def test_a_stopped_bot_stays_stopped_through_every_door(system: System) -> None:
    for bot in ("ours", "theirs", "runs"):
        system.create_form(bot, "command")
    system.wait_polling("ours", "theirs", "runs")
    system.run("bot", "stop", "ours")
    system.supervisorctl("stop", "bot-theirs")
    wait_for(lambda: not system.row("theirs")["enabled"], "the stop through supervisorctl taken as the wish")
    assert "No config updates to processes" in system.supervisorctl("reread")
    assert [system.polls(b) for b in ("ours", "theirs")] == [0, 0]

    supervisord = system.supervisord_pid
    os.kill(supervisord, signal.SIGKILL)
    wait_for(lambda: not alive(supervisord) and not system.processes(), "everything gone")
    system.run("start")
    system.wait_polling("runs")
    system.answers("runs")
    assert [system.row(b)["state"] for b in ("ours", "theirs")] == ["stopped", "stopped"]
    assert [system.polls(b) for b in ("ours", "theirs")] == [0, 0]
    wait_for(lambda: system.audit("theirs", door="supervisorctl"), "the stop from outside in the audit log")

    system.supervisorctl("start", "bot-theirs")
    wait_for(lambda: system.row("theirs")["enabled"], "the start through supervisorctl taken as the wish")
    system.wait_polling("theirs")


def test_a_stop_with_now_leaves_nothing_that_a_bot_started(system: System) -> None:
    """A program's own children may sit in a session of their own, where no signal to a group reaches them."""
    program = (
        "import subprocess, time; subprocess.Popen(['sleep', '987654'], start_new_session=True); time.sleep(987654)"
    )
    (system.bots / "parent.py").write_text(program)

    def children() -> list[int]:
        return [p.pid for p in system.processes() if "987654" in p.cmdline()]

    for stop in (("bot", "stop", "parent"), ("bot", "stop", "parent", "--now"), ("stop", "--yes", "--now")):
        if "parent" not in system.tokens:
            system.create_bot("parent", "--command", f"/usr/bin/python3 {system.bots}/parent.py")
        else:
            system.run("bot", "start", "parent")
        wait_for(children, "the child of the program")
        system.run(*stop)
        assert children() == []


def test_stop_ends_everything_and_start_brings_it_back(system: System) -> None:
    system.create_form("script", "script")
    system.wait_polling("script")
    system.run("stop", code=6)  # nobody to confirm
    assert system.polls("script") == 1
    system.run("stop", "--yes")
    wait_for(lambda: not system.processes(), "nothing left")
    system.run("stop", "--yes")
    system.run("status", code=3)
    assert system.polls("script") == 0
    system.run("start")
    system.wait_polling("script")
