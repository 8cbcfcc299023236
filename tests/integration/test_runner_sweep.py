"""Nothing that a bot started polls on beside the bot's next run, nor after the bot was stopped."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest
from runners import Bot, Place, alive, wait_for

from multibot_runner.protocol import LOCKED_OUT, MISCONFIGURED, RUNNING, STOPPED

# Three ways to start what must not outlive the bot; each says its pid and then pretends to poll.
POLL = """
    import multiprocessing, os, signal, subprocess, sys, time

    def poll():
        print("child", os.getpid(), flush=True)
        while True:
            time.sleep(600)

    def fork():
        multiprocessing.get_context("fork").Process(target=poll).start()

    def daemon():
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                os.closerange(3, 256)
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                poll()
            os._exit(0)
        os.wait()

    def program():
        subprocess.Popen([sys.executable, "-c", "import os, time; print('child', os.getpid(), flush=True);"
                          "time.sleep(600)"])
"""
WAYS = ["fork", "daemon", "program"]
GRACEFUL = "signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))"


def bot_with_child(place: Place, way: str, setting: str = "", **wish: object) -> Bot:
    end = f"""
    {setting}
    {way}()
    while True:
        time.sleep(600)
    """
    return place.script(POLL + end, **wish)


def child_of(bot: Bot) -> int:
    bot.said("child ")
    return int(bot.log.rpartition("child ")[2].split()[0])


@pytest.mark.parametrize("way", WAYS)
def test_what_a_killed_run_left_polling_is_ended_before_the_next_one_begins(place: Place, way: str) -> None:
    bot = bot_with_child(place, way)
    process = bot.start()
    child = child_of(bot)
    process.kill()
    process.wait()
    assert alive(child)
    bot.log_file.unlink()
    second = bot.start()
    assert child_of(bot) != child
    assert not alive(child)
    assert "killed 1 process(es) that the last run left behind" in bot.log
    assert second.poll() is None


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("setting", ["", GRACEFUL])
def test_a_stop_ends_what_a_script_started(place: Place, way: str, setting: str) -> None:
    bot = bot_with_child(place, way, setting)
    process = bot.start()
    child = child_of(bot)
    process.terminate()
    assert process.wait(10) == (0 if setting else -signal.SIGTERM)
    assert not alive(child)
    assert bot.exit.cause == STOPPED


def test_a_script_that_ends_by_itself_waits_for_its_children_as_python_does(place: Place) -> None:
    bot = place.script("""
        import multiprocessing, time
        def work():
            time.sleep(0.5)
            print("worked", flush=True)
        multiprocessing.get_context("fork").Process(target=work).start()
    """)
    assert bot.run_to_end() == 0
    assert "worked" in bot.log


def test_a_child_that_leaves_through_the_runners_exit_handlers_ends_nobody(place: Place) -> None:
    bot = place.script("""
        import os, sys, time
        if os.fork() == 0:
            sys.exit(0)
        print("child", os.wait()[1], flush=True)
        time.sleep(600)
    """)
    process = bot.start()
    bot.said("child 0")
    assert process.poll() is None


def test_a_run_that_ends_leaves_alone_who_waits_for_its_lock(place: Place) -> None:
    bot = bot_with_child(place, "fork")
    first = bot.start()
    child = child_of(bot)
    second = bot.start()
    bot.phase(second, LOCKED_OUT)
    first.terminate()
    first.wait(10)
    assert not alive(child)
    bot.phase(second, RUNNING)


def test_the_processes_of_another_bot_are_left_alone(place: Place) -> None:
    one, two = bot_with_child(place, "fork"), bot_with_child(place, "fork")
    first, second = one.start(), two.start()
    child, other = child_of(one), child_of(two)
    first.terminate()
    first.wait(10)
    assert not alive(child)
    assert alive(other)
    assert second.poll() is None


@pytest.mark.root
def test_a_named_account_keeps_its_other_processes(place: Place) -> None:
    import pwd

    account = pwd.getpwnam("nobody")
    bot = bot_with_child(place, "daemon", user="nobody", uid=None)
    for path in (bot.paths.settings(bot.digest), bot.paths.token(bot.digest)):
        os.chown(path, account.pw_uid, account.pw_gid)
    other = subprocess.Popen(["sleep", "600"], user="nobody", env=place.environment)
    bot.processes.append(other)
    process = bot.start()
    child = child_of(bot)
    process.kill()
    process.wait()
    third = bot.start()
    wait_for(lambda: not alive(child), "the child gone")
    bot.phase(third, RUNNING)
    assert other.poll() is None


def test_shared_memory_is_freed_by_pythons_helper_which_ignores_sigterm(place: Place) -> None:
    bot = place.script("""
        import signal, sys, time
        from multiprocessing.shared_memory import SharedMemory
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        memory = SharedMemory(create=True, size=64)
        print("memory", memory.name, flush=True)
        while True:
            time.sleep(600)
    """)  # fmt: skip
    process = bot.start()
    bot.said("memory ")
    memory = Path("/dev/shm") / bot.log.split()[1]
    assert memory.exists()
    process.terminate()
    process.wait(10)
    wait_for(lambda: not memory.exists(), "the shared memory freed")


def test_a_lock_that_cannot_be_used_is_said_and_written_down(place: Place) -> None:
    bot = place.script("raise SystemExit(3)")
    assert bot.run_to_end() == 3
    bot.paths.lock.unlink()
    bot.paths.lock.mkdir()
    assert bot.run_to_end() == 78
    assert bot.exit.cause == MISCONFIGURED
    assert bot.exit.text == f"{bot.paths.lock} cannot be used as its lock file (Is a directory): remove it"
    assert "Traceback" not in bot.log
    assert len(bot.runs) == 2
