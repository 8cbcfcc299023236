"""Speaking to a running sandbox: for tests, the demo and ``multibot sandbox``. Standard library only."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from multibot_plugin.errors import BadValue, MultibotError, NoSuchBot, Refused, Unreachable
from multibot_plugin.sandbox.model import Entry

# The proxy variables of the environment are meant for the world outside.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))
_KINDS = {"bad-value": BadValue, "refused": Refused}


@dataclass(frozen=True)
class BotView:
    """A bot as the sandbox sees it. ``*_at``: seconds since the epoch, None: never.

    ``polls``: getUpdates calls that came in; ``polls_open``: held now; ``conflicts``: 409s that were earned, not
    those of a fault; ``redelivered``: updates that went out a second time; ``calls``: by method in lower case.
    """

    number: int
    name: str
    username: str
    revoked: bool
    webhook: str
    pending: int
    delivered: int
    redelivered: int
    conflicts: int
    polls: int
    polls_open: int
    most_polls_open: int
    last_poll_at: float | None
    last_success_at: float | None
    faults: int
    calls: Mapping[str, int]


class NoAnswer(MultibotError):
    """A bot has not sent in time what was waited for."""


class Sandbox:
    """A running sandbox. ``bot`` is a token, the number before its colon, a name or a username everywhere.

    ``start``: what to type when it does not run. Every method raises Unreachable when the sandbox does not answer,
    NoSuchBot for a bot it has not seen.
    """

    def __init__(self, url: str, timeout_s: float = 10.0, start: str = "multibot sandbox serve") -> None:
        self.url = url.rstrip("/")
        self._start = start
        self._timeout_s = timeout_s

    def register(self, token: str, name: str | None = None) -> BotView:
        """Make a token valid (also a revoked one) and name its bot (username: ``<name>_bot`` if it is new)."""
        return _view(self._post("register", token=token, name=name))

    def introduce(self, number: int, name: str | None = None) -> BotView:
        """Make a bot known by the number of its token before it calls, and name it."""
        return _view(self._post("introduce", number=number, name=name))

    def bots(self) -> list[BotView]:
        return [_view(row) for row in self._call("bots")["bots"]]

    def counters(self, bot: str) -> BotView:
        """Return one bot with its counters; raises NoSuchBot when it never called and was not registered."""
        for view in self.bots():
            if bot.partition(":")[0] == str(view.number) or bot.removeprefix("@") in (view.name, view.username):
                return view
        raise NoSuchBot(bot.partition(":")[0])

    def add_chat(self, chat: int, name: str | None = None) -> None:
        """Make a chat that no user has spoken in yet (say, the one that alerts go to); below 0: a group."""
        self._post("chat", chat=chat, name=name)

    def block(self, bot: str, chat: int | None = None, description: str | None = None, on: bool = True) -> None:
        """Let everything that the bot sends into this chat fail with 403 (Ada blocked the bot)."""
        self._post("block", bot=bot, chat=chat, description=description, on=on)

    def say(self, bot: str, text: str, chat: int | None = None, user: str | None = None) -> Entry:
        """A user (Ada, or the one of this name) writes to the bot, in private or in ``chat`` (below 0: a group)."""
        return _entry(self._post("say", bot=bot, text=text, chat=chat, user=user))

    def tap(self, bot: str, button: str, chat: int | None = None, message_id: int | None = None) -> Entry:
        """A user taps an inline button, named by its text or data, in the newest message that has it.

        Raises Refused when no message shows such a button.
        """
        return _entry(self._post("tap", bot=bot, button=button, chat=chat, message_id=message_id))

    def transcript(self, bot: str | None = None, after: int = 0, wait_s: float = 0.0) -> list[Entry]:
        """Return what was said after entry number ``after``; waits up to ``wait_s`` seconds for the first."""
        query = {"after": str(after), "wait": str(wait_s)} | ({"bot": bot} if bot else {})
        rows = self._call(f"transcript?{urllib.parse.urlencode(query)}", timeout_s=self._timeout_s + wait_s)
        return [_entry(row) for row in rows["entries"]]

    def last(self) -> int:
        """Return the number of the transcript's last entry."""
        return int(self._call(f"transcript?after={2**53}")["last"])

    def follow(self, bot: str | None = None, after: int = 0, timeout_s: float | None = None) -> Iterator[Entry]:
        """Yield entries as they come, for ``timeout_s`` seconds (None: for ever)."""
        end = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            left = 30.0 if end is None else min(end - time.monotonic(), 30.0)
            for entry in self.transcript(bot, after, max(left, 0.0)):
                after = entry.n
                yield entry
            if left <= 0:
                return

    def wait_for(
        self, wanted: str | Callable[[Entry], bool], timeout_s: float = 10.0, *,
        bot: str | None = None, after: int = 0,
    ) -> Entry:  # fmt: skip
        """Return the first entry that ``wanted`` accepts, or (a text) that a bot sent and that contains it.

        Raises NoAnswer when none comes within ``timeout_s``.
        """
        accepts = wanted if callable(wanted) else lambda e: e.by == "bot" and wanted in e.text
        for entry in self.follow(bot, after, timeout_s):
            if accepts(entry):
                return entry
        what = repr(wanted) if isinstance(wanted, str) else "an answer"
        raise NoAnswer(f"{self._name(bot)} has not sent {what} within {timeout_s:g} s")

    def ask(self, bot: str, text: str, timeout_s: float = 10.0, chat: int | None = None) -> Entry:
        """Say ``text`` and return the bot's first message afterwards in that chat; raises as ``wait_for``."""
        said = self.say(bot, text, chat)
        return self.wait_for(
            lambda e: e.by == "bot" and e.kind == "message" and e.chat == said.chat,
            timeout_s, bot=str(said.bot), after=said.n,
        )  # fmt: skip

    def fault(
        self, bot: str | None, *, status: int | None = None, hang: bool = False, drop: bool = False,
        lose: bool = False, for_s: float | None = None, times: int | None = None,
        method: str | None = "getUpdates", retry_after: int | None = None, description: str | None = None,
        parameters: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        """Let calls of ``method`` (None: every method) of a bot (None: of all bots) go wrong.

        One of: ``status``, an HTTP status (400 to 599) that they fail with; ``hang``: no answer before it is over;
        ``drop``: the connection is closed; ``lose``: it is closed when the call has been carried out. For ``for_s``
        seconds, ``times`` calls, or until ``clear``. A fault on getUpdates hits the poll that is open, too. With a
        status: ``retry_after`` is what a 429 asks for in seconds, ``description`` and ``parameters`` replace the
        usual ones. Raises BadValue for none or several of them.
        """
        chosen = {"status": status is not None, "hang": hang, "drop": drop, "lose": lose}
        kinds = [kind for kind, on in chosen.items() if on]
        if len(kinds) != 1:
            raise BadValue(f"a fault is one of {', '.join(chosen)}")
        self._post(
            "fault", bot=bot, kind=kinds[0], status=status, for_s=for_s, times=times,
            methods=[method] if method else None, retry_after=retry_after, description=description,
            parameters=dict(parameters) if parameters else None,
        )  # fmt: skip

    def clear(self, bot: str | None = None) -> int:
        """End the faults of a bot (None: all faults there are); return how many that were."""
        return int(self._post("clear", bot=bot)["cleared"])

    def revoke(self, bot: str) -> None:
        """Take the bot's token away: every call with it gets 401, the open poll at once."""
        self._post("revoke", bot=bot)

    def _name(self, bot: str | None) -> str:
        return self.counters(bot).name if bot else "no bot"

    def _post(self, route: str, **body: Any) -> dict[str, Any]:
        given = {name: value for name, value in body.items() if value is not None}
        return self._call(route, json.dumps(given).encode())

    def _call(self, route: str, body: bytes | None = None, timeout_s: float | None = None) -> dict[str, Any]:
        request = urllib.request.Request(f"{self.url}/_sandbox/{route}", body)  # noqa: S310 - ours
        if body is not None:
            request.add_header("Content-Type", "application/json")
        try:
            with _OPENER.open(request, timeout=timeout_s or self._timeout_s) as answer:
                document = json.load(answer)
        except urllib.error.HTTPError as error:
            raise _error(error) from None
        except (OSError, ValueError) as error:
            raise self._away() from error
        if not isinstance(document, dict):
            raise self._away()
        return document

    def _away(self) -> Unreachable:
        return Unreachable(f"the sandbox does not answer at {self.url}: run '{self._start}'")


def find(record: Path, start: str = "multibot sandbox serve") -> Sandbox:
    """Return the sandbox that wrote this record; ``start`` is what to type when there is none.

    Raises Unreachable.
    """
    try:
        found = json.loads(record.read_text())
        if found["pid"] is None:
            raise Unreachable(f"the sandbox has ended: run '{start}'")
        return Sandbox(found["url"], start=start)
    except (OSError, ValueError, KeyError, TypeError):
        raise Unreachable(f"no sandbox has been started here: run '{start}'") from None


def _view(row: Mapping[str, Any]) -> BotView:
    return BotView(**row)


def _entry(row: Mapping[str, Any]) -> Entry:
    return Entry(**{**row, "buttons": tuple(row["buttons"])})


def _error(error: urllib.error.HTTPError) -> MultibotError:
    with error:
        try:
            document = json.load(error)
            text, kind = str(document["error"]), document["kind"]
        except (ValueError, KeyError, TypeError):
            return Unreachable(f"what answers at {error.url.partition('/_sandbox')[0]} is not a sandbox")
    if kind == "no-such-bot":
        found = NoSuchBot("")
        found.args = (text,)
        return found
    return _KINDS.get(kind, MultibotError)(text)
