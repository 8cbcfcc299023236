"""The directory of the rendered file vanishes: it is said, and whatever somebody does then, apply brings all back."""

from __future__ import annotations

import shutil

from system import System, wait_for


def test_a_vanished_directory_is_said_and_apply_brings_back_what_an_update_stopped(system: System) -> None:
    for bot in ("one", "two"):
        system.create_form(bot, "command")
    system.wait_polling("one", "two")
    pids = {bot: system.pid(bot) for bot in ("one", "two")}
    remedy = system.home.command("apply").removeprefix("multibot ")

    shutil.rmtree(system.home.rendered.parent)
    doctor = system.run("doctor", code=1).stdout
    assert "does not name 2 bots (one, two): 'supervisorctl update' would stop them" in doctor
    assert remedy in doctor
    done = system.run("apply")
    assert done.stderr.splitlines() == [
        "one: rendered again, as supervisord has it", "two: rendered again, as supervisord has it",
        "2 bots: 2 rendered again",
    ]  # fmt: skip
    assert system.home.rendered.is_file()
    assert {bot: system.pid(bot) for bot in ("one", "two")} == pids  # nobody noticed

    system.home.rendered.unlink()
    system.home.rendered.mkdir()  # even root cannot read this
    lines = system.run("doctor", code=1).stdout.splitlines()
    (told,) = [line for line in lines if "does not name 2 bots" in line]
    assert "not a plain file): 'supervisorctl update' would stop them; take it away, then" in told
    assert not any("configuration" in line for line in lines)
    assert system.run("apply", code=1).stderr == f"multibot: {system.home.rendered}: not a plain file\n"
    system.supervisorctl("update")
    shutil.rmtree(system.home.rendered.parent)
    wait_for(lambda: [system.polls(bot) for bot in ("one", "two")] == [0, 0], "the end of the bots")
    assert "supervisord lost 2 bots (one, two)" in system.run("doctor", code=1).stdout
    status = system.run("status", code=3).stdout
    assert "no bot in supervisord, 2 in the database" in status
    assert status.count("✖ supervisord lost 2 bots (one, two)") == 1
    system.run("apply")
    system.wait_polling("one", "two")
    assert [row["enabled"] for row in system.sql("SELECT enabled FROM bot_configs")] == [True, True]
