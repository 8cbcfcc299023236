"""An outage of Telegram: nobody is restarted for it, it is told as such, and it is over by itself."""

from __future__ import annotations

import contextlib
import selectors
import socket
import socketserver
import threading
from collections.abc import Iterator
from urllib.parse import urlsplit

from system import System, wait_for

SHORT = ("--deaf-after-s", "6s", "--start-grace-s", "6s")


class Line:
    """The way to a server at a port of its own, that can be cut: then the port refuses, as if the server were gone."""

    def __init__(self, url: str) -> None:
        there = urlsplit(url)
        assert there.hostname
        assert there.port
        ends: set[socket.socket] = set()
        address = (there.hostname, there.port)

        class Forward(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                with contextlib.suppress(OSError), socket.create_connection(address) as other:
                    pair = {self.request: other, other: self.request}
                    ends.update(pair)
                    forward(pair)

        self._ends, self._handler = ends, Forward
        self._server: socketserver.ThreadingTCPServer | None = None
        self._port = 0
        self.open()
        self.url = f"http://127.0.0.1:{self._port}"

    def open(self) -> None:
        server = socketserver.ThreadingTCPServer(("127.0.0.1", self._port), self._handler, bind_and_activate=False)
        server.allow_reuse_address = server.daemon_threads = True
        server.server_bind()
        server.server_activate()
        self._server, self._port = server, server.server_address[1]
        threading.Thread(target=server.serve_forever, args=(0.05,)).start()

    def cut(self) -> None:
        if self._server is None:
            return
        self._server.shutdown()
        for end in self._ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        self._server.server_close()
        self._server = None
        self._ends.clear()


def forward(pair: dict[socket.socket, socket.socket]) -> None:
    """Pass on what either end says until one of them closes."""
    with selectors.DefaultSelector() as selector:
        for end in pair:
            selector.register(end, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                end: socket.socket = key.fileobj  # type: ignore[assignment]
                data = end.recv(65536)
                if not data:
                    return
                pair[end].sendall(data)


@contextlib.contextmanager
def a_line(system: System) -> Iterator[Line]:
    """Have everything of an installation that is not started yet reach the Bot API server over a line."""
    line = Line(system.sandbox.url)
    try:
        system.run("config", "set", "bot_api_url", line.url)
        system.run("start")
        yield line
    finally:
        line.cut()


def test_an_outage_restarts_nobody_is_told_as_such_and_is_over_by_itself() -> None:
    with System.create(start=False) as system, a_line(system) as line:
        for form in ("build", "script"):
            system.create_form(form, form, *SHORT)
        system.wait_polling("build", "script")
        system.answers("build")
        pid = system.pid("build")
        line.cut()
        incidents = wait_for(
            lambda: [i for i in system.status()["incidents"] if not i["bot"] and "does not answer" in i["text"]],
            "the outage in the monitor's picture",
        )
        assert incidents[0]["text"].startswith(f"Telegram ({line.url}) does not answer")
        wait_for(lambda: system.row("script")["health"] == "deaf", "a deaf bot")
        # A start in the middle of it fails, and is no reason for a quarantine.
        assert "Telegram could not be reached" in system.run("bot", "restart", "script", code=1).stderr
        wait_for(lambda: system.row("script")["state"] == "backing-off", "that it waits")
        line.open()
        wait_for(lambda: {system.row(bot)["health"] for bot in ("build", "script")} == {"healthy"}, "all well")
        assert system.pid("build") == pid
        for bot in ("build", "script"):
            system.answers(bot)
        assert line.url in system.wait_alert("multibot", "does not answer")
        system.wait_alert("multibot is well again")
        assert not [text for text in system.alerts() if "build" in text]  # it is told once, for all bots
        assert not [row for row in system.audit("build", action="bot.restarted") if row["door"] == "monitor"]
