"""What the sandbox knows: bots, chats, messages, and the transcript of what was said. No sockets here.

Everything runs in one event loop; the clocks come in by constructor.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from multibot_plugin.errors import BadValue, NoSuchBot, Refused
from multibot_plugin.sandbox.faults import Fault, Faults
from multibot_plugin.sandbox.model import (
    RESTART,
    WEBHOOK_SET,
    Chat,
    Entry,
    EntryKind,
    Json,
    Reply,
    Webhook,
    buttons_of,
    command_entities,
    failure,
    token_number,
    user_json,
)
from multibot_plugin.sandbox.updates import Updates

ADA = Chat(1001, "Ada")
_KEPT_MESSAGES, _KEPT_ENTRIES, _KEPT_QUERIES = 10_000, 20_000, 1_000


@dataclass
class Counters:
    """What happened to one bot; ``*_at`` are seconds since the epoch. ``polls``: getUpdates calls that came in."""

    polls: int = 0
    polls_open: int = 0
    most_polls_open: int = 0
    last_poll_at: float | None = None
    last_success_at: float | None = None
    faults: int = 0
    calls: dict[str, int] = field(default_factory=dict)


@dataclass(eq=False)
class Bot:
    """One bot: the number before the colon of its token. ``token`` None: the next one that comes."""

    number: int
    token: str | None = field(repr=False)
    name: str
    username: str
    updates: Updates = field(repr=False)
    revoked: set[str] = field(default_factory=set, repr=False)
    webhook: Webhook | None = field(default=None, repr=False)
    commands: list[Json] = field(default_factory=list, repr=False)
    counters: Counters = field(default_factory=Counters)
    messages: OrderedDict[tuple[int, int], Json] = field(default_factory=OrderedDict, repr=False)
    queries: OrderedDict[str, Entry] = field(default_factory=OrderedDict, repr=False)
    refusals: dict[int, str] = field(default_factory=dict, repr=False)
    next_message: int = 1

    def as_user(self) -> Json:
        return {"id": self.number, "is_bot": True, "first_name": self.name, "username": self.username}

    def keep(self, message: Json) -> None:
        self.messages[message["chat"]["id"], message["message_id"]] = message
        if len(self.messages) > _KEPT_MESSAGES:
            self.messages.popitem(last=False)


class World:
    """All bots and chats. ``strict``: only registered tokens are accepted, else every well-formed one is."""

    def __init__(
        self, strict: bool = False, real_pace: bool = False,
        now: Callable[[], float] = time.time, mono: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self.strict, self.real_pace, self.now, self.mono = strict, real_pace, now, mono
        self.bots: dict[int, Bot] = {}
        self.chats: dict[int, Chat] = {ADA.id: ADA}
        self.faults = Faults()
        self.entries: list[Entry] = []
        self.grown = asyncio.Event()  # set, and replaced by a new one, with every entry
        self.closing = False
        self.on_webhook: Callable[[Bot], None] = lambda bot: None  # a bot's webhook was set or taken away
        self._last_entry = 0
        self._last_query = 0

    # -- bots

    def admit(self, token: str) -> Bot | Reply:
        """Return the bot that calls with this token, or the 401 it gets.

        After ``revoke`` the next unknown token with this number is the bot's new one, as from @BotFather.
        """
        number = token_number(token)
        if number is None:
            return failure(401, "Unauthorized: invalid token specified")
        bot = self.bots.get(number)
        if bot is None:
            return failure(401, "Unauthorized") if self.strict else self._new_bot(number, token)
        if bot.token is None and not self.strict and token not in bot.revoked:
            bot.token = token
        return bot if bot.token == token else failure(401, "Unauthorized")

    def introduce(self, number: int, name: str | None = None) -> Bot:
        """Make a bot known before it calls, and name it; its token is the first that comes with this number."""
        bot = self.bots.get(number) or self._new_bot(number, None, name)
        if name and bot.name != name:
            for other in self.bots.values():
                if other.name == name:
                    other.name = other.username
            bot.name = name
        return bot

    def register(self, token: str, name: str | None = None) -> Bot:
        """Introduce a bot and make this its valid token, whatever was before; raises BadValue when it is malformed."""
        number = token_number(token)
        if number is None:
            raise BadValue("this token does not look like one from @BotFather (123456789:AA...)")
        bot = self.introduce(number, name)
        bot.token = token
        bot.revoked.discard(token)
        return bot

    def _new_bot(self, number: int, token: str | None, name: str | None = None) -> Bot:
        username = re.sub(r"[^A-Za-z0-9_]", "_", name or f"sandbox_{number}")[:28] + "_bot"
        # Update ids begin with the time: a bot that outlives a restart of the sandbox goes on with its old offset.
        updates = Updates(int(self.now()), self.real_pace)
        self.bots[number] = Bot(number, token, username, username, updates)
        return self.bots[number]

    def find(self, word: str) -> Bot:
        """Return the bot with this token, number, name or @username; raises NoSuchBot."""
        number = int(word) if re.fullmatch(r"\d{1,16}", word) else token_number(word)
        if number is not None:
            if number in self.bots:
                return self.bots[number]
            raise NoSuchBot(str(number))  # never the token
        for bot in self.bots.values():
            if word.removeprefix("@") in (bot.name, bot.username):
                return bot
        raise NoSuchBot(word, [b.name for b in self.bots.values()])

    def revoke(self, bot: Bot) -> None:
        """Take the bot's token away: every call with it, and the poll that is open, gets 401."""
        if bot.token:
            bot.revoked.add(bot.token)
        bot.token = None
        bot.updates.wake_poll(failure(401, "Unauthorized"))

    def set_webhook(self, bot: Bot, hook: Webhook | None) -> None:
        """From now on the bot's updates go there (None: they wait for polls); a poll that is open ends in a 409."""
        bot.webhook = hook
        bot.updates.end_poll(WEBHOOK_SET, self.mono())
        self.on_webhook(bot)

    def add_fault(self, fault: Fault) -> None:
        """Put a fault in force; one on getUpdates hits the polls that are open, too."""
        self.faults.add(fault)
        for number, bot in self.bots.items():
            if fault.concerns(number, "getupdates"):
                bot.updates.wake_poll()

    def close(self) -> None:
        """The server ends: whoever waits is answered as by a server that restarts."""
        self.closing = True
        for bot in self.bots.values():
            bot.updates.wake_poll(failure(500, RESTART))
        self.faults.clear(None)
        self.grown.set()

    # -- what users do

    def add_chat(self, chat: int, name: str | None = None) -> Chat:
        """Make a chat (a user's, or below 0 a group), or rename it; raises BadValue for an id out of range."""
        if not 0 < abs(chat) < 2**52:
            raise BadValue(f"chat {chat} is not a chat's id")
        known = self.chats.get(chat)
        if known is None or (name and known.name != name):
            usual = ADA.name if chat == ADA.id else f"User {chat}" if chat > 0 else f"Group {chat}"
            self.chats[chat] = Chat(chat, name or usual)
        return self.chats[chat]

    def user(self, name: str | None) -> Chat:
        """Return the private chat of a user, who is made if need be; None: Ada."""
        for chat in self.chats.values():
            if chat.id > 0 and chat.name == (name or ADA.name):
                return chat
        return self.add_chat(max(self.chats) + 1, name)

    def say(self, bot: Bot, text: str, chat: int | None = None, user: str | None = None) -> Entry:
        """A user writes ``text`` to the bot: in his private chat, or in another ``chat`` (below 0: a group)."""
        if not text or len(text) > 4096:
            raise BadValue("a message has 1 to 4096 characters")
        if chat is None:
            sender = place = self.user(user)
        elif chat > 0:
            sender = place = self.add_chat(chat, user)
        else:
            sender, place = self.user(user), self.add_chat(chat)
        message = self.message(bot, place, text, user_json(sender.id, sender.name))
        if entities := command_entities(text):
            message["entities"] = entities
        entry = self.note(bot, "user", "message", place, text, message, sender.name)
        bot.updates.add("message", message, self.now())
        return entry

    def tap(self, bot: Bot, button: str, chat: int, message_id: int | None = None) -> Entry:
        """A user taps the inline button with this text or data, in the newest message that has it."""
        place = self.add_chat(chat)
        for message in reversed(bot.messages.values()):
            if message["chat"]["id"] != chat or message_id not in (None, message["message_id"]):
                continue
            for found in buttons_of(message):
                if button in (found["text"], found.get("callback_data")):
                    return self._tap(bot, place, message, found)
        raise Refused(f"{bot.name} shows no button {button!r} in chat {chat}")

    def _tap(self, bot: Bot, place: Chat, message: Json, button: Json) -> Entry:
        if "callback_data" not in button:
            raise Refused(f"the button {button['text']!r} calls nothing back (it has no callback_data)")
        self._last_query += 1
        query = f"{bot.number}{self._last_query:08d}"
        sender = place if place.id > 0 else ADA
        payload = {
            "id": query, "from": user_json(sender.id, sender.name), "message": message,
            "chat_instance": str(place.id), "data": button["callback_data"],
        }  # fmt: skip
        entry = self.note(bot, "user", "tap", place, button["text"], message, sender.name)
        bot.queries[query] = entry
        if len(bot.queries) > _KEPT_QUERIES:
            bot.queries.popitem(last=False)
        bot.updates.add("callback_query", payload, self.now())
        return entry

    # -- records

    def message(self, bot: Bot, chat: Chat, text: str, sender: Mapping[str, Any]) -> Json:
        """Make the next message of a chat, and keep it so that it can be edited, answered and tapped."""
        message: Json = {
            "message_id": bot.next_message, "date": int(self.now()), "chat": chat.as_json(),
            "from": dict(sender), "text": text,
        }  # fmt: skip
        bot.next_message += 1
        bot.keep(message)
        return message

    def note(
        self, bot: Bot, by: Literal["user", "bot"], kind: EntryKind, chat: Chat, text: str,
        message: Mapping[str, Any] | None, user: str | None = None,
    ) -> Entry:  # fmt: skip
        """Add a line to the transcript and wake whoever waits for it."""
        self._last_entry += 1
        buttons = tuple(b["text"] for b in buttons_of(message)) if message and by == "bot" else ()
        number = message["message_id"] if message else None
        entry = Entry(
            self._last_entry,
            self.now(),
            bot.number,
            bot.name,
            by,
            kind,
            chat.id,
            user or chat.name,
            text,
            number,
            buttons,
        )
        self.entries.append(entry)
        del self.entries[:-_KEPT_ENTRIES]
        grown, self.grown = self.grown, asyncio.Event()
        grown.set()
        return entry
