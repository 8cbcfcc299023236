"""When a runner starts its bot again, and when it leaves for good: backoff, quarantine, the setting ``restart``."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest
from runners import Place

from multibot_runner.protocol import CRASHED, FINISHED, GAVE_UP, KILLED, QUARANTINED, RUNNING, STOPPED, UNREACHABLE

DIES = "raise SystemExit(3)"


@pytest.mark.parametrize(
    ("restart", "source", "code", "cause"),
    [
        ("on-failure", "pass", 79, FINISHED),
        ("on-failure", DIES, 3, CRASHED),
        ("never", "import os; os._exit(0)", 79, FINISHED),
        ("never", "import os; os.kill(os.getpid(), 11)", -11, None),
        ("never", DIES, 78, CRASHED),
    ],
)
def test_the_setting_restart_decides_with_what_code_a_bot_leaves(
    place: Place, restart: str, source: str, code: int, cause: str | None
) -> None:
    bot = place.script(source, restart=restart)
    began = time.monotonic()
    assert bot.run_to_end() == code
    assert code < 78 or time.monotonic() - began >= 1.5  # supervisord would take an earlier end for a failed start
    assert cause is None or (bot.exit.cause, bot.exit.code) == (cause, code)
    assert bot.runs[0].died is (code not in (78, 79))


@pytest.mark.parametrize(("restart", "code"), [("on-failure", 1), ("never", 78)])
def test_a_bot_that_executes_itself_anew_ends_so_that_supervisord_starts_it(
    place: Place, restart: str, code: int
) -> None:
    bot = place.script("""
        import os, sys, threading
        again = (sys.executable, sys.executable, *sys.argv)
        thread = threading.Thread(target=os.execl, args=again)
        thread.start()
        thread.join()
    """, restart=restart)  # fmt: skip
    assert bot.run_to_end() == code
    assert (bot.exit.cause, bot.exit.text.partition(";")[0]) == (CRASHED, "restarted itself")
    assert "multibot: restarted itself\n" in bot.log


def test_a_bot_that_executes_something_else_does(place: Place) -> None:
    bot = place.script("""
        import os, sys
        if "--again" in sys.argv:
            sys.exit(4)
        if os.fork() == 0:  # a child is not the bot
            os.environ["CHILD"] = "1"
            os.execv(sys.executable, [sys.executable, "-c", "print('child', flush=True)"])
        os.wait()
        os.execve(sys.executable, [sys.executable, *sys.argv, "--again"], os.environ)
    """)  # fmt: skip
    assert bot.run_to_end() == 4
    assert "child\n" in bot.log
    assert bot.runs[0].exit is None


def test_a_script_that_first_sets_what_only_a_new_process_heeds_goes_on_as_one(place: Place) -> None:
    bot = place.script("""
        import os, sys
        if "LD_LIBRARY_PATH" not in os.environ:
            os.environ["LD_LIBRARY_PATH"] = "/opt/lib"
            os.execv(sys.executable, [sys.executable, *sys.argv])
        if os.fork() == 0:
            os.execve(path=sys.executable, argv=[sys.executable, "-c", "print('child', flush=True)"], env={})
        os.wait()
        sys.exit(4)
    """)  # fmt: skip
    assert bot.run_to_end() == 4
    assert "child\n" in bot.log


def test_a_bot_that_nothing_answers_backs_off_and_is_not_quarantined(place: Place) -> None:
    bot = place.script(
        """
        import asyncio, os
        from telegram import Bot
        asyncio.run(Bot(os.environ["BOT_TOKEN"]).initialize())
        """,
        quarantine_after=2, backoff_max_s=0.1,
    )  # fmt: skip
    for _ in range(3):
        assert bot.run_to_end() == 1
    assert [(run.died, run.exit and run.exit.cause) for run in bot.runs] == [(True, UNREACHABLE)] * 3
    assert bot.exit.text.startswith("Telegram could not be reached: telegram.error.NetworkError: ")
    assert "(bot.py:4)" in bot.exit.text
    assert QUARANTINED not in bot.log


@pytest.mark.parametrize("form", ["script", "command"])
def test_a_bot_that_leaves_with_our_own_code_is_not_taken_for_one_that_has_finished(place: Place, form: str) -> None:
    source = "import os; print('out of order', flush=True); os._exit(79)"
    bot = place.script(source) if form == "script" else place.bot("command", f'{sys.executable} -c "{source}"')
    assert bot.run_to_end() == 1
    words = ": out of order" if form == "command" else ""
    assert (bot.exit.cause, bot.exit.text) == (CRASHED, f"ended by itself, exit code 79{words}")


def test_after_kill_9_a_bot_that_is_never_to_be_restarted_stays_down_until_somebody_starts_it(place: Place) -> None:
    bot = place.script("import time; time.sleep(600)", restart="never")
    process = bot.start()
    bot.phase(process, RUNNING)
    process.kill()
    process.wait()
    assert bot.run_to_end() == 78
    assert len(bot.runs) == 1
    assert (bot.exit.cause, bot.exit.text) == (CRASHED, f"{KILLED}; not started again (restart = never)")
    again = bot.start()
    bot.phase(again, RUNNING)


def test_a_bot_that_keeps_dying_is_quarantined_tried_again_later_and_quarantined_again(place: Place) -> None:
    bot = place.script(DIES, quarantine_after=2, quarantine_retry_s=0.2)
    assert [bot.run_to_end(), bot.run_to_end()] == [3, 3]
    third = bot.start()
    seen = bot.phase(third, QUARANTINED)
    assert seen.status == "died 2 times in a row, last: ended by itself, exit code 3"
    assert seen.until_mono is not None
    assert third.wait(30) == 3  # tried once more
    assert 0.2 <= bot.runs[0].waited_s < 30
    place.bot("script", str(place.top / "bots" / "0" / "bot.py"), bot=bot, quarantine_after=2)
    fourth = bot.start()
    bot.phase(fourth, QUARANTINED)
    fourth.terminate()
    assert fourth.wait(30) == 0
    assert (bot.exit.cause, bot.runs[0].died) == (STOPPED, False)
    assert bot.run_to_end() == 3  # the tally began anew
    assert bot.log.count(": quarantined for ") == 2


def test_where_no_retry_is_wanted_the_runner_leaves_with_the_cause_and_a_start_begins_anew(place: Place) -> None:
    bot = place.script(DIES, quarantine_after=2, quarantine_retry_s=0.0)
    assert [bot.run_to_end() for _ in range(4)] == [3, 3, 78, 3]
    assert (bot.runs[1].exit and bot.runs[1].exit.cause) == GAVE_UP
    assert bot.log.count("died 2 times in a row, last: ended by itself, exit code 3") == 1


@pytest.mark.parametrize("form", ["script", "command"])
def test_a_run_in_the_foreground_waits_for_nothing_is_not_written_down_and_leaves_with_the_bots_own_code(
    place: Place, form: str
) -> None:
    source = "import sys; print('in', sys.prefix, flush=True); sys.exit(79)"
    program = place.file("bot.py", source)
    python = {"script": {"python": sys.executable}, "command": {}}[form]
    target = {"script": str(program), "command": f"{sys.executable} {program}"}[form]
    bot = place.bot(form, target, quarantine_after=1, restart="never", **python)
    assert bot.run_to_end() == 78
    before = bot.paths.runs.read_bytes(), bot.paths.heartbeat.read_bytes()
    words = [sys.executable, "-P", "-m", "multibot_runner", "--run", bot.id, bot.digest]
    done = subprocess.run(words, env=place.environment, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout) == (79, f"in {sys.prefix}\n")
    assert "ended by itself, exit code 79" in done.stderr
    assert (bot.paths.runs.read_bytes(), bot.paths.heartbeat.read_bytes()) == before
