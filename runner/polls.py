"""A bot's getUpdates calls, seen from inside: hooks on httpx, set when the bot imports it.

They stamp getMe and getUpdates into the heartbeat, send calls for https://api.telegram.org to the configured server,
and spare every bot the memory of what httpx and python-telegram-bot import without needing it.
"""

from __future__ import annotations

import functools
import importlib.abc
import importlib.machinery
import importlib.util
import json
import re
import sys
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple
from urllib.parse import parse_qs, unquote

from multibot_runner import logs
from multibot_runner.record import Recorder

TELEGRAM = "https://api.telegram.org"
_TELEGRAM_HOST = "api.telegram.org"
_CALL = re.compile(r"/bot(\d+:[A-Za-z0-9_-]+)(?:/test)?/([A-Za-z]+)/?\Z")
_REJECTING = (401, 404)


@dataclass(frozen=True)
class Call:
    """One getMe or getUpdates of the bot."""

    polling: bool
    own: bool  # a bot may ask getMe about somebody else's token


class PollWatch:
    """What the hooks know. ``rejected`` is the status by which Telegram last refused the token, else None.

    Only 401 and 404 on getMe or getUpdates mean that; libraries turn any other 404 into the same exception.
    ``on_rejected`` is called when a getUpdates is refused.
    """

    def __init__(self, recorder: Recorder, api_url: str, token: str) -> None:
        self._recorder = recorder
        self._token = token
        self.api_url = "" if api_url == TELEGRAM else api_url
        self.rejected: Optional[int] = None
        self.on_rejected: Callable[[], None] = lambda: None

    def begin(self, path: str, parameters: Callable[[], Dict[str, Any]]) -> Optional[Call]:
        """Note the start of a call to ``path``; None: not a call that matters."""
        match = _CALL.search(unquote(path))
        if match is None:
            return None
        method = match[2].lower()
        if method not in ("getme", "getupdates"):
            return None
        call = Call(polling=method == "getupdates", own=match[1] == self._token)
        if call.polling:
            self._recorder.poll_started(_timeout(parameters))
        return call

    def end(self, call: Call, status: int, body: bytes) -> None:
        """Note the answer to a call."""
        good = 200 <= status < 300
        if call.own or call.polling:
            self.rejected = status if status in _REJECTING else None
        if not call.polling:
            if self.rejected and call.own:
                self._recorder.poll_failed(status)
        elif good:
            self._recorder.poll_succeeded(body.count(b'"update_id"'))  # in a text the quotes would be escaped
        else:
            self._recorder.poll_failed(status)
            if self.rejected:
                self.on_rejected()

    def fail(self, call: Call) -> None:
        """Note that no answer came."""
        if call.polling:
            self._recorder.poll_failed(None)


def _timeout(parameters: Callable[[], Dict[str, Any]]) -> Optional[float]:
    try:
        return float(parameters().get("timeout", 0))
    except Exception:  # whatever a stranger's request holds, it is only a stamp
        return None


def patch_httpx(httpx: Any, watch: PollWatch) -> None:
    """Stand before ``Client.send`` and ``AsyncClient.send``."""
    plain, asynchronous = httpx.Client.send, httpx.AsyncClient.send

    @functools.wraps(plain)
    def send(self: Any, request: Any, *args: Any, **options: Any) -> Any:
        call = _start(httpx, watch, request)
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
        call = _start(httpx, watch, request)
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


def _start(httpx: Any, watch: PollWatch, request: Any) -> Optional[Call]:
    if watch.api_url and request.url.host == _TELEGRAM_HOST:
        request.url = httpx.URL(watch.api_url + request.url.raw_path.decode("ascii"))
        request.headers["Host"] = request.url.netloc.decode("ascii")
    return watch.begin(request.url.path, lambda: _parameters(request))


def _parameters(request: Any) -> Dict[str, Any]:
    found: Dict[str, Any] = dict(request.url.params)
    body = request.content
    if "json" in request.headers.get("content-type", ""):
        found.update(json.loads(body))
    else:
        found.update({k: v[-1] for k, v in parse_qs(body.decode("utf-8", "replace")).items()})
    return found


def _body(httpx: Any, response: Any) -> bytes:
    try:
        return bytes(response.content)
    except httpx.ResponseNotRead:
        return b""


def install(watch: PollWatch, spare_cryptography: bool) -> None:
    """Set the hooks, for modules already imported at once, for the others when they are.

    ``spare_cryptography``: python-telegram-bot does without it (its Passport then does not work): 13 MiB per bot.
    """

    def patch(module: ModuleType) -> None:
        try:
            patch_httpx(module, watch)
        except AttributeError as error:
            logs.say(f"polls cannot be seen with this httpx: {error}")

    if "httpx" in sys.modules:
        patch(sys.modules["httpx"])
    hooks: Dict[str, Tuple[Sequence[str], Optional[Callable[[ModuleType], None]]]] = {
        "httpx": (("httpx._main",), patch)
    }
    if spare_cryptography:
        hooks["telegram"] = (("cryptography",), None)
    sys.meta_path.insert(0, _AfterImport(hooks))


class _AfterImport(importlib.abc.MetaPathFinder):
    """Calls back once when a module has been imported, and hides other modules from it while it is.

    ``hooks``: name -> (names hidden while it is executed, what to call with it).
    """

    def __init__(self, hooks: Dict[str, Tuple[Sequence[str], Optional[Callable[[ModuleType], None]]]]) -> None:
        self._hooks = hooks

    def find_spec(self, name: str, path: Any, target: Any = None) -> Optional[importlib.machinery.ModuleSpec]:
        if name not in self._hooks:
            return None
        hidden, after = self._hooks.pop(name)  # taken out first: the others find the module
        spec = importlib.util.find_spec(name)
        if spec is None or spec.loader is None:
            return None
        spec.loader = _Loader(spec.loader, hidden, after)
        return spec


class _Loader(importlib.abc.Loader):
    def __init__(self, real: Any, hidden: Sequence[str], after: Optional[Callable[[ModuleType], None]]) -> None:
        self._real = real
        self._hidden = hidden
        self._after = after

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> Optional[ModuleType]:
        created: Optional[ModuleType] = self._real.create_module(spec)
        return created

    def exec_module(self, module: ModuleType) -> None:
        if module.__spec__ is not None:
            module.__spec__.loader = self._real
        module.__loader__ = self._real
        taken: List[str] = [name for name in self._hidden if name not in sys.modules]
        for name in taken:
            sys.modules[name] = None  # type: ignore[assignment]
        try:
            self._real.exec_module(module)
        finally:
            for name in taken:
                if name in sys.modules and sys.modules[name] is None:
                    del sys.modules[name]
        if self._after is not None:
            self._after(module)
