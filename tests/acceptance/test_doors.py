"""supervisord's own door: stock supervisorctl on bots."""

from __future__ import annotations

from system import System, wait_for


def test_supervisorctl_speaks_bots_and_works_on_them(system: System) -> None:
    system.create_form("echo", "script")
    system.create_form("dice", "command")
    system.wait_polling("echo", "dice")
    shown = system.supervisorctl("bots")
    assert "echo" in shown
    assert "dice" in shown
    assert "bots" in system.supervisorctl("help")
    assert "RUNNING" in system.supervisorctl("status", "bot-echo")
    pid = system.pid("echo")
    system.supervisorctl("restart", "bot-echo")
    wait_for(lambda: system.pid("echo") != pid, "restarted by supervisorctl")
    system.wait_polling("echo")
    assert system.row("echo")["enabled"]

    system.supervisorctl("reload")
    wait_for(lambda: system.supervisorctl("status", code=None).count("RUNNING") == 4, "everything up after reload")
    system.wait_polling("echo", "dice")
    system.answers("echo")
