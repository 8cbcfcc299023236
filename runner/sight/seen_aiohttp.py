"""aiohttp (aiogram, pyTelegramBotAPI's AsyncTeleBot): its calls of the Bot API, seen."""

from __future__ import annotations

import functools
from typing import Any, Dict, List
from urllib.parse import urlsplit

from multibot_runner.sight.polls import PollWatch, parameters_of


def patch(watch: PollWatch, aiohttp: Any) -> None:
    """Stand before ``ClientSession._request``, through which every request of a session goes."""
    session = aiohttp.ClientSession
    plain, build_url = session._request, session._build_url

    @functools.wraps(plain)
    async def request(self: Any, method: str, url: Any, **options: Any) -> Any:
        try:
            asked = str(build_url(self, url))
        except Exception:  # aiohttp's own words for that
            return await plain(self, method, url, **options)
        target = watch.rewrite(asked)
        parts = urlsplit(target)
        call = watch.begin(parts.path, lambda: parameters_of(parts.query, *_bodies(options)))
        url = url if target is asked else target
        if call is None:
            return await plain(self, method, url, **options)
        try:
            response = await plain(self, method, url, **options)
            body = await response.read() if call.asking else b""  # the library gets it again, from memory
        except Exception:  # a cancelled poll (a stop) is no failure
            watch.fail(call)
            raise
        watch.end(call, response.status, body)
        return response

    session._request = request


def _bodies(options: Dict[str, Any]) -> List[Any]:
    data = options.get("data")
    fields = getattr(data, "_fields", None)  # of a FormData: (names, headers, value)
    form = data if fields is None else {names["name"]: value for names, _, value in fields}
    return [options.get("params"), options.get("json"), form]
