"""How a runner starts, takes its place and is stopped before the bot's own code matters."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from runners import ROOT, Place, alive, wait_for

from multibot_runner import family, lock
from multibot_runner.protocol import (
    BACKING_OFF,
    CRASHED,
    LOCKED_OUT,
    MISCONFIGURED,
    RUNNING,
    STOPPED,
    Exit,
    Run,
    RunnerSettings,
    decode,
    encode,
    read_file,
    replace_file,
)

SLEEP = "import time; print('up', flush=True); time.sleep(600)"


def test_kill_9_leaves_a_run_without_a_word_and_the_next_start_counts_it_as_a_death(place: Place) -> None:
    bot = place.script(SLEEP)
    for _ in range(2):
        process = bot.start()
        bot.phase(process, RUNNING)
        process.kill()
        process.wait()
    assert [run.exit for run in bot.runs] == [None, None]
    assert all(run.died for run in bot.runs)
    third = bot.start()
    heartbeat = bot.phase(third, BACKING_OFF)
    assert heartbeat.until_mono is not None
    bot.phase(third, RUNNING)
    assert "died 2 times in a row, last: killed (SIGKILL or crash of the interpreter): backing-off for " in bot.log


@pytest.mark.parametrize(
    "content",
    ["[" * 200_000, '[{"started_at": "x", "start_mono": [], "pid": {}, "digest": 3}]', "[3]", "y" * 1024**2,
     '[{"started_at": 1e999, "start_mono": 1, "pid": 1, "digest": "d", "exit": {"ended_at": "x"}}]',
     '[{"started_at": 99999999999, "start_mono": 1, "pid": 1, "digest": "\\ud800\\u001b[2J"}]'],
)  # fmt: skip
def test_a_bot_that_wrote_its_own_record_of_runs_is_started_like_any_other(place: Place, content: str) -> None:
    bot = place.script("raise SystemExit(3)")
    assert bot.run_to_end() == 3
    bot.paths.runs.write_text(content)
    bot.paths.heartbeat.write_text(content)
    assert bot.run_to_end() == 3
    assert (bot.exit.cause, bot.exit.code) == (CRASHED, 3)
    assert "Traceback" not in bot.log
    readable = "99999999999" in content  # if odd
    assert (bot.runs[0].waited_s == 0) is readable
    assert (f"{bot.paths.runs} cannot be read: taken for two deaths" in bot.log) is not readable


def test_a_stop_during_the_backoff_ends_it_at_once_and_begins_the_tally_anew(place: Place) -> None:
    bot = place.script("raise SystemExit(3)")
    assert bot.run_to_end() == 3
    now = time.time()
    died = [Run(now - n, 0.0, 1, bot.digest, exit=Exit(now - n, CRASHED, "")) for n in range(9)]
    owner = bot.paths.runs.stat()
    replace_file(bot.paths.runs, encode(died), owner=(owner.st_uid, owner.st_gid))
    process = bot.start()
    bot.phase(process, BACKING_OFF)
    bot.said("died 9 times in a row, last: : backing-off for ")
    process.terminate()
    assert process.wait(10) == 0
    assert (bot.exit.cause, bot.runs[0].stopping) == (STOPPED, True)
    assert bot.run_to_end() == 3
    assert bot.log.count("backing-off") == 1


def test_the_second_instance_waits_at_the_lock_says_so_and_takes_over(place: Place) -> None:
    bot = place.script(SLEEP)
    first = bot.start()
    bot.phase(first, RUNNING)
    second = bot.start()
    bot.phase(second, LOCKED_OUT)
    bot.said(f"process {first.pid} already runs this bot: waiting until it ends")
    assert len(bot.runs) == 1
    first.terminate()
    first.wait(10)
    bot.phase(second, RUNNING)
    assert bot.runs[0].pid == second.pid


def test_a_stop_while_waiting_at_the_lock_ends_only_the_one_that_waits(place: Place) -> None:
    bot = place.script(SLEEP)
    first = bot.start()
    bot.phase(first, RUNNING)
    second = bot.start()
    bot.phase(second, LOCKED_OUT)
    second.terminate()
    assert second.wait(10) == 0
    assert first.poll() is None
    assert bot.runs[0].exit is None


def test_an_orphan_that_keeps_the_lock_is_killed(place: Place) -> None:
    # It ignores SIGTERM and has no parent of ours: what a supervisord that was killed may leave behind.
    bot = place.script("import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\ntime.sleep(600)")
    place.bot("script", settings_of(bot).target, bot=bot, stop_wait_s=0.0)
    shell = bot.start(through=("/bin/sh", "-c", '"$@" & wait', "sh"))
    holder = wait_for(lambda: bot.heartbeat and bot.heartbeat.phase == RUNNING and bot.heartbeat.pid, "an orphan")
    os.kill(holder, signal.SIGSTOP)  # the death of its parent shall not end it by our own means
    shell.kill()
    shell.wait()
    second = bot.start()
    bot.phase(second, LOCKED_OUT)
    bot.phase(second, RUNNING)
    assert f"process {holder} is an orphan and does not end: killing it" in bot.log
    assert not alive(holder)


@pytest.mark.parametrize(("name", "spared"), [(family.FOREGROUND, True), (b"mb-other", False)])
def test_a_run_of_a_person_in_a_terminal_is_no_orphan(tmp_path: Path, name: bytes, spared: bool) -> None:
    file = tmp_path / "lock"
    source = f"""
import fcntl, time
open("/proc/self/comm", "w").write("{name.decode()}")
file = open("{file}", "w")
fcntl.lockf(file, fcntl.LOCK_EX)
print("held", flush=True)
time.sleep(600)
"""
    holder = subprocess.Popen([sys.executable, "-c", source], stdout=subprocess.PIPE)
    descriptor = lock.open_lock(file)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        waiting = lock.Waiting(descriptor, 5.0, lambda text: None)
        assert [waiting.look(now) for now in (0.0, 4.0, 6.0)] == [False] * 3
        assert spared or holder.wait(10) == -signal.SIGKILL
        assert alive(holder.pid) is spared
    finally:
        os.close(descriptor)
        holder.kill()
        holder.communicate()


def settings_of(bot: object) -> RunnerSettings:
    return decode(RunnerSettings, read_file(bot.paths.settings(bot.digest)))  # type: ignore[attr-defined]


@pytest.mark.parametrize("form", ["script", "command"])
def test_a_bot_ends_when_its_parent_is_killed(place: Place, form: str) -> None:
    bot = place.script(SLEEP) if form == "script" else place.bot("command", "sh -c 'sleep 600 & echo up; wait'")
    shell = bot.start(through=("/bin/sh", "-c", '"$@" & wait', "sh"))
    bot.said("up")
    shell.kill()
    shell.wait()
    wait_for(lambda: not place.processes(), "nothing left of the bot")
    assert bot.exit.cause == STOPPED


def test_a_bot_that_ignores_sigterm_is_killed_though_nobody_sends_sigkill(place: Place) -> None:
    bot = place.script("""
        import signal, time
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print("up", flush=True)
        while True:
            time.sleep(600)
    """, stop_wait_s=0.3)  # fmt: skip
    process = bot.start()
    bot.said("up")
    process.terminate()
    assert process.wait(20) == -signal.SIGALRM
    assert bot.runs[0].stopping
    assert not bot.runs[0].died


def test_a_handler_of_the_bots_own_runs_after_the_stop_was_written_down(place: Place) -> None:
    bot = place.script("""
        import os, signal, sys, time
        def handler(number, frame):
            print("mine", number, flush=True)
            sys.exit(7)
        before = signal.signal(signal.SIGTERM, handler)
        print(before == signal.SIG_DFL, signal.getsignal(signal.SIGTERM) is handler, flush=True)
        child = os.fork()
        if child == 0:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(600)
        print("child", os.waitpid(child, 0)[1], flush=True)
        time.sleep(600)
    """)
    process = bot.start()
    bot.said("child 15")
    assert not bot.runs[0].stopping
    process.terminate()
    assert process.wait(10) == 7
    assert bot.log.splitlines() == ["True True", "child 15", "mine 15"]
    assert (bot.exit.cause, bot.exit.code, bot.runs[0].stopping) == (STOPPED, 7, True)


def test_what_a_killed_run_left_behind_is_ended_by_the_next(place: Place) -> None:
    bot = place.script("""
        import subprocess, time
        print("child", subprocess.Popen(["sleep", "600"], start_new_session=True).pid, flush=True)
        time.sleep(600)
    """)
    process = bot.start()
    bot.said("child")
    child = int(bot.log.split()[-1])
    process.kill()
    process.wait()
    assert alive(child)
    bot.start()
    wait_for(lambda: not alive(child), "the child gone")
    bot.said("killed 1 process(es) that the last run left behind")


@pytest.mark.parametrize(
    ("wish", "text"),
    [
        ({"target": "/nonexistent/bot.py"}, "script /nonexistent/bot.py: No such file or directory"),
        ({"workdir": "/nonexistent"}, "working directory /nonexistent: No such file or directory"),
        ({"env_file": "/nonexistent/.env"}, "env file /nonexistent/.env: No such file or directory"),
        ({"python": "/nonexistent/python"}, "interpreter /nonexistent/python: No such file or directory"),
        ({"launch": "command", "target": "/nonexistent/x y"}, "command /nonexistent/x: No such file or directory"),
        ({"user": "no-such-account"}, "no account 'no-such-account' on this system"),
    ],
)
def test_what_a_restart_cannot_mend_is_final_and_says_what_it_is(place: Place, wish: dict[str, str], text: str) -> None:
    bot = place.bot(**{"launch": "script", "target": str(place.file("bot.py", SLEEP)), **wish})  # type: ignore[arg-type]
    start = time.monotonic()
    assert bot.run_to_end() == 78
    assert time.monotonic() - start >= 1.5  # not a measurement: supervisord takes an earlier end for a failed start
    assert (bot.exit.cause, bot.exit.text, bot.exit.code) == (MISCONFIGURED, text, 78)
    assert text in bot.log


def test_settings_that_are_missing_or_broken_are_final(place: Place) -> None:
    bot = place.script(SLEEP)
    bot.digest = "0123456789abcdef"
    assert bot.run_to_end() == 78
    assert "its settings cannot be read, run 'multibot apply'" in bot.log
    replace_file(bot.paths.settings(bot.digest), b"{}")
    assert bot.run_to_end() == 78
    bot = place.script(SLEEP, env=["not", "an", "object"], user=[])
    assert bot.run_to_end() == 78
    assert "run 'multibot apply': not a RunnerSettings: env is a list or out of range" in bot.log
    bot.digest = "../../etc"
    assert bot.run_to_end() == 78
    assert "are not a bot's id and digest" in bot.log
    assert bot.run_to_end(MULTIBOT_RUN="") == 78
    assert "MULTIBOT_RUN is not set" in bot.log


@pytest.mark.root
def test_root_runs_a_bot_as_a_uid_of_its_own_with_nothing_of_root_left(place: Place) -> None:
    bot = place.script("""
        import json, os, stat
        info = os.stat(".")
        print(json.dumps({
            "uids": os.getresuid(), "gids": os.getresgid(), "groups": os.getgroups(), "cwd": os.getcwd(),
            "who": [os.environ[k] for k in ("HOME", "USER", "LOGNAME")], "mode": info.st_mode & 0o777,
            "umask": os.umask(0), "core": __import__("resource").getrlimit(4)[0],
        }))
    """)
    assert bot.run_to_end() == 0
    seen = json.loads(bot.log.splitlines()[0])
    work = str(bot.paths.work)
    assert seen == {
        "uids": [bot.uid] * 3, "gids": [bot.uid] * 3, "groups": [], "cwd": work,
        "who": [work, f"bot-{bot.id}", f"bot-{bot.id}"], "mode": 0o700, "umask": 0o022, "core": 0,
    }  # fmt: skip
    for path in (bot.paths.run_dir, bot.paths.runs, bot.paths.heartbeat):
        info = path.stat()
        assert (info.st_uid, stat.S_IMODE(info.st_mode) & 0o077) == (bot.uid, 0)


@pytest.mark.root
@pytest.mark.parametrize(("inherited", "own"), [("-500", "0"), ("300", "300")])
def test_a_bot_does_not_share_supervisords_protection_from_the_oom_killer(
    place: Place, inherited: str, own: str
) -> None:
    bot = place.script("print('oom', open('/proc/self/oom_score_adj').read())")
    change = f"open('/proc/self/oom_score_adj', 'w').write('{inherited}')"
    through = (sys.executable, "-c", f"import os, sys; {change}; os.execv(sys.argv[1], sys.argv[1:])")
    assert bot.start(through=through).wait() == 0
    assert f"oom {own}\n" in bot.log


@pytest.mark.root
def test_root_does_not_stay_root_unless_it_is_told_to(place: Place) -> None:
    bot = place.script("import os; print('uid', os.getuid())", uid=None)
    assert bot.run_to_end() == 78
    assert "a bot runs as root only with --user root" in bot.log
    root = place.script("import os; print('uid', os.getuid())", uid=None, user="root")
    os.chown(root.paths.settings(root.digest), 0, 0)
    assert root.run_to_end() == 0
    assert "uid 0" in root.log


@pytest.mark.root
def test_a_named_account_brings_its_own_home(place: Place) -> None:
    bot = place.script("import os; print(os.getuid(), os.environ['HOME'], os.environ['USER'])", user="nobody")
    bot.paths.settings(bot.digest).unlink()
    settings = settings_written(bot, user="nobody")
    assert settings.user == "nobody"
    assert bot.run_to_end() == 0
    assert bot.log.splitlines()[0] == "65534 /nonexistent nobody"


def settings_written(bot: object, **wish: object) -> RunnerSettings:
    """Give the bot's settings and token to the account that they name."""
    import pwd

    template = RunnerSettings(
        bot=bot.id, launch="script", target=str(bot.place.top / "bots" / "0" / "bot.py"), token_var="BOT_TOKEN",
        env={}, env_file="", workdir="", python="", uid=bot.uid, user="", bot_api_url="http://127.0.0.1:9",
        stop_wait_s=5.0, poll_timeout_s=5.0, backoff_max_s=300.0,
    )  # type: ignore[attr-defined] # fmt: skip
    settings = replace(template, **wish)  # type: ignore[arg-type]
    entry = pwd.getpwnam(settings.user)
    owner = (entry.pw_uid, entry.pw_gid)
    replace_file(bot.paths.settings(bot.digest), encode(settings), 0o400, owner)  # type: ignore[attr-defined]
    os.chown(bot.paths.token(bot.digest), *owner)  # type: ignore[attr-defined]
    return settings


@pytest.mark.root
def test_a_bot_that_rewrites_its_settings_cannot_become_somebody_else(place: Place) -> None:
    bot = place.script("import os; print('uid', os.getuid())")
    for wish in ({"user": "root"}, {"user": "nobody"}, {"uid": bot.uid + 1}):
        settings = replace(settings_of(bot), **{"uid": None, **wish})
        owner = (bot.uid, bot.uid)
        replace_file(bot.paths.settings(bot.digest), encode(settings), 0o400, owner)
        assert bot.run_to_end() == 78
        assert "belongs to another user than it names" in bot.log
        assert "uid " not in bot.log.replace("user id", "")
        replace_file(bot.paths.settings(bot.digest), encode(replace(settings, uid=bot.uid, user="")), 0o400, owner)


@pytest.mark.root
def test_a_bot_can_open_its_output_again_and_its_memory_is_closed_to_others(place: Place) -> None:
    bot = place.script("import os; open('/dev/stdout', 'w').write('reopened\\n'); os.listdir('/proc/self/fd')")
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "multibot_runner", bot.id, bot.digest],
        env=place.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert process.communicate(timeout=30)[0].startswith("reopened\n")
    sleeper = place.script(SLEEP)
    running = sleeper.start()
    sleeper.said("up")
    assert Path(f"/proc/{running.pid}/environ").stat().st_uid == 0


def test_an_ordinary_user_cannot_run_a_bot_as_somebody_else(place: Place) -> None:
    user = 60_001 if ROOT else os.geteuid()
    become = f"import os, sys; os.setgid({user}); os.setuid({user}); os.execv(sys.argv[1], sys.argv[1:])"
    through = (sys.executable, "-c", become) if ROOT else ()
    for wish, text in ({"user": "root"}, "run a bot as 'root'"), ({"uid": user + 1}, f"a bot as user id {user + 1}"):
        bot = place.script(SLEEP, **wish)
        for path in (bot.paths.settings(bot.digest), bot.paths.token(bot.digest)):
            os.chown(path, user, -1)
        assert bot.start(through=through).wait(30) == 78
        assert f"only root can {text}" in bot.log.replace("run a bot as user", "a bot as user")
