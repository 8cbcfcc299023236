"""A monitor that hangs is replaced from inside supervisord; what happened meanwhile, and that it hung, is told once."""

from __future__ import annotations

import os
import signal

from system import System, wait_for


def test_a_monitor_that_hangs_is_killed_and_the_next_one_knows_what_happened() -> None:
    with System.create(start=False) as system:
        conf = system.home.supervisord_conf
        conf.write_text(conf.read_text().replace("\nstatus=", "\nlistener_patience_s=1\nstatus=", 1))
        system.run("start")
        system.create_form("echo", "command")
        system.wait_polling("echo")
        with system.xmlrpc() as server:

            def monitor() -> int:
                return int(str(server.supervisor.getProcessInfo("multibot")["pid"]))

            hung = monitor()
            os.kill(hung, signal.SIGSTOP)
            os.kill(system.pid("echo"), signal.SIGKILL)
            wait_for(lambda: monitor() not in (0, hung), "another monitor")
        assert f"(pid {hung}) has not answered" in system.home.supervisord_log.read_text()
        system.wait_polling("echo")
        wait_for(lambda: len(system.audit("echo", "bot.exited")) == 1, "the death in the audit log")
