"""requests (pyTelegramBotAPI's TeleBot): its calls of the Bot API, seen."""

from __future__ import annotations

import functools
import json
from typing import Any, Dict
from urllib.parse import urlsplit

from multibot_runner.sight.polls import PollWatch, form


def patch(watch: PollWatch, requests: Any) -> None:
    """Stand before ``Session.send``; the URL is changed before proxies are chosen for it."""
    session = requests.Session
    prepare, plain = session.prepare_request, session.send

    @functools.wraps(prepare)
    def prepare_request(self: Any, request: Any) -> Any:
        if isinstance(request.url, str):
            request.url = watch.rewrite(request.url)
        return prepare(self, request)

    @functools.wraps(plain)
    def send(self: Any, request: Any, **options: Any) -> Any:
        request.url = watch.rewrite(request.url)
        parts = urlsplit(request.url)
        call = watch.begin(parts.path, lambda: _parameters(parts.query, request))
        if call is None:
            return plain(self, request, **options)
        try:
            response = plain(self, request, **options)
        except Exception:
            watch.fail(call)
            raise
        streamed = not getattr(response, "_content_consumed", True)
        watch.end(call, response.status_code, b"" if streamed else response.content)
        return response

    session.prepare_request, session.send = prepare_request, send


def _parameters(query: str, request: Any) -> Dict[str, Any]:
    found: Dict[str, Any] = dict(form(query))
    body = request.body or b""
    text = body.decode("utf-8", "replace") if isinstance(body, bytes) else str(body)
    if "json" in request.headers.get("Content-Type", ""):
        found.update(json.loads(text))
    else:
        found.update(form(text))
    return found
