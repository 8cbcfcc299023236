"""supervisord's own doors: stock XML-RPC and supervisorctl on bots."""

from __future__ import annotations

import json
import xmlrpc.client

import pytest
from system import System, wait_for

from multibot_plugin import __version__


def test_stock_xmlrpc_lists_and_calls_our_methods(system: System) -> None:
    system.create_form("echo", "script")
    system.wait_polling("echo")
    with system.xmlrpc() as proxy:
        methods = proxy.system.listMethods()
        assert {"multibot.getBots", "multibot.getVersion"} <= set(methods)  # type: ignore[arg-type]
        assert json.loads(str(proxy.multibot.getVersion()))["multibot"] == __version__
        wait_for(lambda: system.row("echo")["health"] == "healthy", "health told by the monitor")
        rows = json.loads(str(proxy.multibot.getBots()))["bots"]
        assert [(r["id"], r["state"], r["health"]) for r in rows] == [("echo", "running", "healthy")]
        with pytest.raises(xmlrpc.client.Fault):
            proxy.multibot.getBots("too", "many")
        assert json.loads(str(proxy.multibot.getBots()))["bots"]


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
