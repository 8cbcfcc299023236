"""The sandbox as a server: a local Bot API on a loopback socket. Needs aiohttp (the extra ``sandbox``)."""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass

from aiohttp import web

from multibot_plugin.errors import BadValue, Refused
from multibot_plugin.sandbox.botapi import LARGEST_BODY, BotApi
from multibot_plugin.sandbox.control import Control
from multibot_plugin.sandbox.model import failure
from multibot_plugin.sandbox.state import World
from multibot_plugin.sandbox.webhooks import Deliveries

_GRACE_S = 0.5


@dataclass
class Running:
    """A sandbox that serves at ``url``; ``close`` ends it, answering open polls with 500."""

    url: str
    world: World
    _runner: web.AppRunner
    _deliveries: Deliveries

    async def close(self) -> None:
        self.world.close()
        await self._deliveries.close()
        await self._runner.cleanup()


def listen(host: str = "127.0.0.1", port: int = 0) -> socket.socket:
    """Return a listening socket; port 0: any free one.

    Raises BadValue for a host that is not this machine's loopback (anybody who reaches the port can play every
    user), Refused when the port is taken.
    """
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise BadValue(f"host {host!r}: the sandbox listens on loopback only (127.0.0.1 or ::1)")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    server = socket.socket(family, socket.SOCK_STREAM)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        server.bind((host, port))
        server.listen(128)
    except (OSError, OverflowError) as error:
        server.close()
        raise Refused(f"cannot listen on {host} port {port}: {getattr(error, 'strerror', error)}") from error
    return server


def url_of(server: socket.socket) -> str:
    host, port = server.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


async def serve(server: socket.socket, world: World) -> Running:
    """Serve ``world`` on a listening socket, in the running loop."""
    application = web.Application(client_max_size=LARGEST_BODY)
    application.router.add_routes(Control(world).routes())
    api = BotApi(world)
    application.router.add_route("*", r"/bot{token:[^/]*}/{method:[^/]+}", api.handle)
    application.router.add_route("*", "/{rest:.*}", _nothing_here)
    # handler_cancellation: a client that closes its connection ends its poll at once
    runner = web.AppRunner(application, handler_cancellation=True, access_log=None, shutdown_timeout=_GRACE_S)
    await runner.setup()
    await web.SockSite(runner, server).start()
    return Running(url_of(server), world, runner, Deliveries(world))


async def start(host: str = "127.0.0.1", port: int = 0, *, strict: bool = False, real_pace: bool = False) -> Running:
    """Start a sandbox in the running loop.

    ``strict``: refuse tokens that were not registered; ``real_pace``: hold repeated polls back as Telegram does.
    """
    return await serve(listen(host, port), World(strict, real_pace))


async def _nothing_here(request: web.Request) -> web.Response:
    return web.json_response(failure(404, "Not Found").body, status=404)
