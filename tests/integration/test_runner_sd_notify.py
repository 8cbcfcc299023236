"""sd_notify: command bots say by it that they are ready, alive and what they do; tried with other people's clients."""

from __future__ import annotations

import shutil
import socket
import sys
from collections.abc import Callable
from pathlib import Path

from runners import Bot, Place, wait_for

from multibot_runner.protocol import Heartbeat


def python(place: Place, source: str, **wish: object) -> Bot:
    return place.bot("command", f"{sys.executable} {place.file('program.py', source)}", **wish)


def heard(bot: Bot, accepts: Callable[[Heartbeat], object]) -> Heartbeat:
    def said() -> Heartbeat | None:
        found = bot.heartbeat
        return found if found is not None and accepts(found) else None

    return wait_for(said, f"words of {bot.id} in its heartbeat")


def test_the_library_sdnotify_is_understood(place: Place) -> None:
    bot = python(place, """
        import os, sdnotify
        print("watchdog", os.environ["WATCHDOG_USEC"], os.environ.get("WATCHDOG_PID"), flush=True)
        notifier = sdnotify.SystemdNotifier(debug=True)
        notifier.notify("READY=1")
        notifier.notify("STATUS=serving with " + os.environ["BOT_TOKEN"])
        notifier.notify("WATCHDOG=1")
        import time; time.sleep(600)
    """, watchdog_s=7.5)  # fmt: skip
    process = bot.start()
    said = heard(bot, lambda h: h.ready_mono and h.watchdog_mono and h.status)
    assert said.status == f"serving with {bot.token.partition(':')[0]}:<redacted>"
    assert said.watchdog_s == 7.5
    assert said.phase == "running"
    bot.said("watchdog 7500000 None")
    process.terminate()
    process.wait(10)
    assert not (bot.paths.run_dir / "notify").exists()


def test_a_client_that_ends_at_once_is_understood_and_so_are_a_programs_last_words(place: Place) -> None:
    # Beside a systemd its own program, which also waits until its words were read.
    ours = place.file(
        "client.py",
        """
        import sdnotify, sys
        sdnotify.SystemdNotifier(debug=True).notify("\\n".join(sys.argv[1:]))
    """,
    )
    client = shutil.which("systemd-notify") or f"{sys.executable} {ours}"
    shell = place.file(
        "bot.sh",
        f"""
        {client} READY=1 STATUS='up and about'
        {client} WATCHDOG_USEC=9000000
        {client} STOPPING=1 STATUS='no more to do'
    """,
    )
    bot = place.bot("command", f"sh {shell}")
    assert bot.run_to_end() == 0
    said = bot.heartbeat
    assert said is not None
    assert (said.ready_mono, said.status, said.watchdog_s) == (None, "no more to do", 9.0)


def test_a_stranger_is_not_listened_to_and_a_flood_costs_the_bot_itself(place: Place) -> None:
    bot = python(place, """
        import os, socket, time
        mine = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        mine.connect(os.environ["NOTIFY_SOCKET"])
        for number in range(200):
            mine.send(b"STATUS=%d" % number)
        print("sent", flush=True)
        time.sleep(600)
    """)  # fmt: skip
    bot.start()
    heard(bot, lambda h: h.status)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stranger:
        stranger.connect(str(bot.paths.run_dir / "notify"))
        stranger.send(b"READY=1\nSTATUS=I am not of this bot")
    said = heard(bot, lambda h: h.status == "199")
    assert said.ready_mono is None
    bot.said("sent")


def test_a_runtime_directory_with_a_long_name_has_a_socket_without_a_file(place: Place) -> None:
    place.run = place.run / ("long" * 20)
    place.run.mkdir()
    place.environment["MULTIBOT_RUN"] = str(place.run)
    bot = python(place, """
        import sdnotify, time
        sdnotify.SystemdNotifier(debug=True).notify("STATUS=here")
        time.sleep(600)
    """)  # fmt: skip
    bot.start()
    heard(bot, lambda h: h.status == "here")
    assert not (bot.paths.run_dir / "notify").exists()


def test_what_a_killed_runner_left_is_replaced_and_the_services_own_socket_is_not_inherited(place: Place) -> None:
    source = "import os, time; print(os.environ['NOTIFY_SOCKET'], flush=True); time.sleep(600)"
    bot = python(place, source)
    first = bot.start(NOTIFY_SOCKET="/run/systemd/notify", WATCHDOG_USEC="1")
    bot.said("/notify\n")
    first.kill()
    first.wait(10)
    assert (bot.paths.run_dir / "notify").exists()
    second = bot.start()
    wait_for(lambda: bot.log.count("/notify\n") == 2, f"the second start; its log: {bot.log}")
    assert f"{bot.paths.run_dir}/notify\n" in bot.log
    assert "systemd" not in bot.log
    assert Path(f"/proc/{second.pid}").exists()


def test_a_bot_that_puts_something_else_there_has_no_socket_and_runs_and_ends_as_ever(place: Place) -> None:
    bot = python(place, """
        import os
        path = os.environ.get("NOTIFY_SOCKET", "")
        if path:
            os.unlink(path)
            os.mkdir(path)
        raise SystemExit(3)
    """)  # fmt: skip
    assert bot.run_to_end() == 3
    assert bot.run_to_end() == 3
    assert f"no NOTIFY_SOCKET: {bot.paths.run_dir}/notify: Address already in use" in bot.log
