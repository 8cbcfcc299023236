"""requests (pyTelegramBotAPI's TeleBot): its calls of the Bot API, seen."""

from __future__ import annotations

import functools
from typing import Any
from urllib.parse import urlsplit

from multibot_runner.sight.polls import PollWatch, parameters_of


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
        call = watch.begin(parts.path, lambda: parameters_of(parts.query, request.body))
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
