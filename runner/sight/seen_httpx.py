"""httpx (python-telegram-bot): its calls of the Bot API, seen."""

from __future__ import annotations

import functools
from typing import Any, Optional

from multibot_runner.sight.polls import Call, PollWatch, parameters_of


def patch(watch: PollWatch, httpx: Any) -> None:
    """Stand before ``Client.send`` and ``AsyncClient.send``."""
    plain, asynchronous = httpx.Client.send, httpx.AsyncClient.send

    @functools.wraps(plain)
    def send(self: Any, request: Any, *args: Any, **options: Any) -> Any:
        call = _begin(httpx, watch, request)
        if call is None:
            return plain(self, request, *args, **options)
        try:
            response = plain(self, request, *args, **options)
        except Exception:
            watch.fail(call)
            raise
        watch.end(call, response.status_code, _body(httpx, response))
        return response

    @functools.wraps(asynchronous)
    async def send_async(self: Any, request: Any, *args: Any, **options: Any) -> Any:
        call = _begin(httpx, watch, request)
        if call is None:
            return await asynchronous(self, request, *args, **options)
        try:
            response = await asynchronous(self, request, *args, **options)
        except Exception:  # a cancelled poll (a stop) is no failure
            watch.fail(call)
            raise
        watch.end(call, response.status_code, _body(httpx, response))
        return response

    httpx.Client.send, httpx.AsyncClient.send = send, send_async


def _begin(httpx: Any, watch: PollWatch, request: Any) -> Optional[Call]:
    url = str(request.url)
    target = watch.rewrite(url)
    if target is not url:
        request.url = httpx.URL(target)
        request.headers["Host"] = request.url.netloc.decode("ascii")
    return watch.begin(request.url.path, lambda: parameters_of(request.url.query, request.content))


def _body(httpx: Any, response: Any) -> bytes:
    try:
        return bytes(response.content)
    except httpx.ResponseNotRead:
        return b""
