"""A bot that falls silent is noticed, told about in Telegram, restarted with a budget, and told about again."""

from __future__ import annotations

import os
import signal

from system import System, new_token, wait_for

from multibot_plugin.journal import Journal

SHORT = ("--deaf-after-s", "8s", "--start-grace-s", "20s")


def test_a_deaf_bot_is_told_about_restarted_and_well_again(system: System) -> None:
    system.create_form("greeter", "build", *SHORT)
    system.wait_polling("greeter")
    system.answers("greeter")  # one poll has succeeded
    pid = system.pid("greeter")
    system.sandbox.fault(system.tokens["greeter"], hang=True, for_s=600)
    assert "no successful getUpdates for" in system.wait_alert("greeter", "deaf")
    wait_for(lambda: system.pid("greeter") != pid, "restarted")
    system.sandbox.clear(system.tokens["greeter"])
    system.wait_alert("greeter", "well again")
    system.answers("greeter")
    assert len([t for t in system.alerts() if "well again" in t]) == 1
    actions = wait_for(lambda: system.audit("greeter", action="%restart%"), "the restart in the audit log")
    assert len(actions) == 1


def test_the_budget_ends_the_restarts_not_the_alert(system: System) -> None:
    system.create_form("deaf", "build", "--deaf-after-s", "6s", "--start-grace-s", "6s", "--restart-budget", "1")
    system.wait_polling("deaf")
    system.sandbox.fault(system.tokens["deaf"], hang=True, for_s=600)
    system.wait_alert("deaf", "1 of 1")
    system.wait_alert("deaf", "budget")
    restarts = wait_for(lambda: system.audit("deaf", action="%restart%"), "the restart in the audit log")
    assert len(restarts) == 1


def test_the_database_may_be_away_while_bots_run_restart_and_raise_alerts(system: System) -> None:
    system.create_form("steady", "script")
    system.create_form("deaf", "build", *SHORT)
    system.wait_polling("steady", "deaf")
    system.supervisorctl("stop", "multibot-postgres")
    system.answers("steady")
    pid = system.pid("steady")
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: system.pid("steady") != pid, "restarted without a database")
    system.wait_polling("steady")
    system.sandbox.fault(system.tokens["deaf"], hang=True, for_s=600)
    system.wait_alert("deaf", "deaf")
    system.sandbox.clear(system.tokens["deaf"])
    system.wait_alert("deaf", "well again")
    assert "database" in system.run("list").stderr
    system.run("bot", "restart", "steady")
    system.wait_polling("steady")

    system.supervisorctl("start", "multibot-postgres")
    wait_for(lambda: system.audit("deaf", action="incident.resolved"), "the incident's end in the audit log")
    wait_for(lambda: Journal(system.home.journal).size() == 0, "nothing left to bring in")
    rows = system.sql("SELECT action, count(*) FROM audit_log WHERE bot_id = 'deaf' GROUP BY action")
    counts = {row["action"]: row["count"] for row in rows}
    assert (counts["incident.opened"], counts["incident.resolved"], counts["bot.restarted"]) == (1, 1, 1)


def test_two_pollers_of_one_token_are_a_conflict_that_no_restart_feeds(system: System) -> None:
    token = system.create_form("shared", "script")
    system.conflicts_expected.add("shared")
    system.wait_polling("shared")
    pid = system.pid("shared")
    with system.second_poller(token):
        assert "409" in system.wait_alert("shared", "conflict")
        assert system.pid("shared") == pid
    system.wait_alert("shared", "well again")
    system.wait_polling("shared")


def test_a_token_revoked_while_running_is_told_about(system: System) -> None:
    token = system.create_form("shop", "script")
    system.wait_polling("shop")
    system.sandbox.revoke(token)
    assert "401" in system.wait_alert("shop", "reject")
    assert wait_for(lambda: system.row("shop")["health"] == "unauthorised", "its health")
    system.run("status", code=3)


def test_a_bot_over_its_memory_limit_is_restarted(system: System) -> None:
    system.create_form("fat", "script", "--memory-limit", "150MB", "--memory-for-s", "1s")
    system.wait_polling("fat")
    pid = system.pid("fat")
    system.sandbox.say(system.tokens["fat"], "grow 200")
    system.wait_alert("fat", "150")
    wait_for(lambda: system.pid("fat") != pid, "restarted")
    system.wait_alert("fat", "well again")
    system.answers("fat")


def test_a_bot_that_keeps_dying_backs_off_and_is_told_about(system: System) -> None:
    script = system.bots / "dies.py"
    script.write_text("raise RuntimeError('no luck today')\n")
    system.create_bot("dies", "--script", str(script), code=1)
    text = system.wait_alert("dies", "RuntimeError: no luck today")
    assert "dies" in text
    wait_for(lambda: system.row("dies")["state"] == "backing-off", "backing off")


def test_a_token_rejected_at_start_quarantines_until_it_is_changed(system: System) -> None:
    token = system.create_form("shop", "script", "--no-start")
    system.sandbox.revoke(token)
    assert "rejected the token" in system.run("bot", "start", "shop", code=1).stderr
    system.wait_alert("shop", "rejected the token")
    assert system.row("shop")["state"] == "quarantined"
    system.change_token("shop")
    system.wait_polling("shop")
    system.answers("shop")
    system.wait_alert("shop", "well again")


def test_alerts_that_cannot_arrive_are_said_everywhere_until_they_do() -> None:
    with System.create(alerts__telegram__chat_id="123456789") as system:
        system.create_form("echo", "script")
        assert system.run("status").returncode == 0  # nothing had to be told yet
        doctor = system.run("doctor", code=1).stdout
        nowhere = "✖ alerts cannot be sent to Telegram (chat 123456789): "
        hint = "Bad Request: chat not found: write /start to your alerts bot in this chat"
        assert nowhere + hint in doctor
        system.run("bot", "set", "echo", "--token-stdin", "--no-check", text=new_token(), code=None)
        system.sandbox.revoke(system.sql("SELECT token FROM bot_configs")[0]["token"])
        wait_for(lambda: any(d["failure"] for d in system.status()["deliveries"]), "a failed delivery")
        status = system.run("status", code=3).stdout
        assert f"{nowhere}Telegram answers 400: {hint}; 1 waits" in status
        assert "alerts do not arrive" in status
        assert "told to" not in system.run("bot", "show", "echo").stdout
        assert hint in system.run("doctor", code=1).stdout
        system.sandbox.add_chat(123456789)
        system.wait_alert("echo is unauthorised")
        wait_for(lambda: "told to Telegram" in system.run("bot", "show", "echo").stdout, "the incident told")
        assert "cannot be sent" not in system.run("status", code=3).stdout
