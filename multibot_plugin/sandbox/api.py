"""The Bot API's methods that the sandbox has, as functions of the state; getUpdates is in updates.py."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from multibot_plugin.sandbox.methods import KNOWN_METHODS
from multibot_plugin.sandbox.model import (
    ApiError,
    Chat,
    Json,
    Reply,
    Webhook,
    bad_request,
    failure,
    is_loopback,
    success,
    utf16,
)
from multibot_plugin.sandbox.state import Bot, World

_LONGEST_TEXT = 4096
_ENTITY = {"type": str, "offset": int, "length": int}
_TRUE = (True, "true", "True", "1")
_SECRET = re.compile(r"[A-Za-z0-9_-]{0,256}")


class Params(dict[str, Any]):
    """The parameters of a call: texts from a query or form, any JSON value from a JSON body."""

    def text(self, name: str) -> str:
        value = self.get(name)
        if isinstance(value, str):
            return value
        return "" if value is None else json.dumps(value)

    def integer(self, name: str, default: int, low: int, high: int) -> int:
        """Return a number cut to the range; Telegram takes what is no number for 0."""
        value = self.get(name)
        if value is None or value == "":
            return default
        try:
            number = int(str(value)[:20])
        except ValueError:
            number = 0
        return max(low, min(number, high))

    def nested(self, name: str, what: str) -> Any:
        """Return a nested value: decoded already, or a JSON text in a form; None when it is absent."""
        value = self.get(name)
        if not isinstance(value, str):
            return value
        if not value:
            return None
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            raise bad_request(f"can't parse {what} JSON object") from None


def get_me(world: World, bot: Bot, params: Params) -> Reply:
    can = {"can_join_groups": True, "can_read_all_group_messages": True, "supports_inline_queries": False}
    return success(bot.as_user() | can)


def send_message(world: World, bot: Bot, params: Params) -> Reply:
    chat = _chat(world, bot, params)
    text = _text(params)
    extra = _extra(params)
    if reply_to := _reply_to(bot, chat, params):
        extra["reply_to_message"] = {k: v for k, v in reply_to.items() if k != "reply_to_message"}
    message = world.message(bot, chat, text, bot.as_user())
    message.update(extra)
    world.note(bot, "bot", "message", chat, text, message)
    return success(message)


def edit_message_text(world: World, bot: Bot, params: Params) -> Reply:
    return _edit(world, bot, params, text=True)


def edit_message_reply_markup(world: World, bot: Bot, params: Params) -> Reply:
    return _edit(world, bot, params, text=False)


def _edit(world: World, bot: Bot, params: Params, text: bool) -> Reply:
    chat = _chat(world, bot, params)
    message = _own_message(bot, chat, params, "edit")
    edited = {k: v for k, v in message.items() if k not in ("entities", "reply_markup")} | _extra(params)
    if text:
        edited["text"] = _text(params)
    elif "entities" in message:
        edited["entities"] = message["entities"]
    if all(edited.get(k) == message.get(k) for k in ("text", "reply_markup", "entities")):
        raise bad_request(
            "message is not modified: specified new message content and reply markup are exactly the same "
            "as a current content and reply markup of the message"
        )
    edited["edit_date"] = int(world.now())
    bot.keep(edited)
    world.note(bot, "bot", "edit", chat, edited["text"], edited)
    return success(edited)


def delete_message(world: World, bot: Bot, params: Params) -> Reply:
    chat = _chat(world, bot, params)
    number = params.integer("message_id", 0, 0, 2**31 - 1)
    message = bot.messages.pop((chat.id, number), None)
    if message is None:
        raise bad_request("message to delete not found")
    world.note(bot, "bot", "delete", chat, message["text"], {"message_id": number})
    return success(True)


def answer_callback_query(world: World, bot: Bot, params: Params) -> Reply:
    entry = bot.queries.pop(params.text("callback_query_id"), None)
    if entry is None:
        raise bad_request("query is too old and response timeout expired or query ID is invalid")
    text = params.text("text")
    if len(text) > 200:
        raise bad_request("MESSAGE_TOO_LONG")
    world.note(bot, "bot", "answer", world.chats[entry.chat], text, None)
    return success(True)


def set_webhook(world: World, bot: Bot, params: Params) -> Reply:
    url = params.text("url")
    if not url:
        return delete_webhook(world, bot, params)
    if not url.startswith("https://") and not (url.startswith("http://") and is_loopback(url)):
        raise bad_request("bad webhook: An HTTPS URL must be provided for webhook")
    secret = params.text("secret_token")
    if not _SECRET.fullmatch(secret):
        raise bad_request("secret token contains unallowed characters")
    if params.get("drop_pending_updates") in _TRUE:
        bot.updates.drop_pending()
    if (allowed := allowed_updates(params)) is not None:
        bot.updates.allow(allowed)
    world.set_webhook(bot, Webhook(url, secret, params.integer("max_connections", 40, 1, 100)))
    return Reply(200, {"ok": True, "result": True, "description": "Webhook was set"})


def delete_webhook(world: World, bot: Bot, params: Params) -> Reply:
    if params.get("drop_pending_updates") in _TRUE:
        bot.updates.drop_pending()
    was = "Webhook was deleted" if bot.webhook else "Webhook is already deleted"
    if bot.webhook:
        world.set_webhook(bot, None)
    return Reply(200, {"ok": True, "result": True, "description": was})


def get_webhook_info(world: World, bot: Bot, params: Params) -> Reply:
    info: Json = {"url": "", "has_custom_certificate": False, "pending_update_count": bot.updates.pending}
    if bot.updates.allowed:
        info["allowed_updates"] = bot.updates.allowed
    return success(info | (bot.webhook.as_json() if bot.webhook else {}))


def allowed_updates(params: Params) -> frozenset[str] | None:
    """Return the kinds of updates that a bot wants from now on; None: as before."""
    allowed = params.nested("allowed_updates", "allowed updates")
    if allowed is None:
        return None
    if not isinstance(allowed, list) or not all(isinstance(kind, str) for kind in allowed):
        raise bad_request("can't parse allowed updates: Array of Strings expected")
    return frozenset(allowed[:100])


def get_chat(world: World, bot: Bot, params: Params) -> Reply:
    return success(_chat(world, bot, params).as_json())


def send_chat_action(world: World, bot: Bot, params: Params) -> Reply:
    _chat(world, bot, params)
    if not params.text("action"):
        raise bad_request("wrong parameter action in request")
    return success(True)


def set_my_commands(world: World, bot: Bot, params: Params) -> Reply:
    commands = params.nested("commands", "commands") or []
    shape = {"command": str, "description": str}
    if not isinstance(commands, list) or not all(_has(c, shape) for c in commands):
        raise bad_request("can't parse BotCommand: Object expected")
    bot.commands = [{name: c[name] for name in shape} for c in commands]
    return success(True)


def delete_my_commands(world: World, bot: Bot, params: Params) -> Reply:
    bot.commands = []
    return success(True)


def get_my_commands(world: World, bot: Bot, params: Params) -> Reply:
    return success(bot.commands)


METHODS: Mapping[str, Callable[[World, Bot, Params], Reply]] = {
    "getme": get_me,
    "sendmessage": send_message,
    "editmessagetext": edit_message_text,
    "editmessagereplymarkup": edit_message_reply_markup,
    "deletemessage": delete_message,
    "answercallbackquery": answer_callback_query,
    "setwebhook": set_webhook,
    "deletewebhook": delete_webhook,
    "getwebhookinfo": get_webhook_info,
    "getchat": get_chat,
    "sendchataction": send_chat_action,
    "setmycommands": set_my_commands,
    "deletemycommands": delete_my_commands,
    "getmycommands": get_my_commands,
}


def call(world: World, bot: Bot, method: str, params: Params) -> Reply:
    """Carry out a method (lower case) other than getUpdates; a failure is a reply, too."""
    function = METHODS.get(method)
    if function is None:
        if method in KNOWN_METHODS:
            return failure(400, "Bad Request: not implemented by the sandbox")
        return failure(404, "Not Found: method not found")
    try:
        return function(world, bot, params)
    except ApiError as error:
        return error.reply


def _chat(world: World, bot: Bot, params: Params) -> Chat:
    raw = params.text("chat_id")
    if not raw:
        raise bad_request("chat_id is empty")
    chat = world.chats.get(params.integer("chat_id", 0, -(2**63), 2**63))
    if chat is None:
        raise bad_request("chat not found")
    if refusal := bot.refusals.get(chat.id):
        raise ApiError(failure(403, refusal))
    return chat


def _text(params: Params) -> str:
    text = params.text("text")
    if not text.strip():
        raise bad_request("message text is empty")
    if utf16(text) > _LONGEST_TEXT:
        raise bad_request("message is too long")
    if params.text("parse_mode").lower() not in ("", "none", "html", "markdown", "markdownv2"):
        raise bad_request("unsupported parse_mode")
    return text


def _own_message(bot: Bot, chat: Chat, params: Params, act: str) -> Json:
    message = bot.messages.get((chat.id, params.integer("message_id", 0, 0, 2**31 - 1)))
    if message is None:
        raise bad_request(f"message to {act} not found")
    if message["from"]["id"] != bot.number:
        raise bad_request(f"message can't be {act}ed")
    return message


def _reply_to(bot: Bot, chat: Chat, params: Params) -> Json | None:
    wish = params.nested("reply_parameters", "reply parameters")
    if isinstance(wish, dict):
        params = Params(wish)
    elif "reply_to_message_id" in params:
        params = Params(message_id=params["reply_to_message_id"])
    else:
        return None
    message = bot.messages.get((chat.id, params.integer("message_id", 0, 0, 2**31 - 1)))
    if message is None and params.get("allow_sending_without_reply") not in (True, "true"):
        raise bad_request("message to be replied not found")
    return message


def _extra(params: Params) -> Json:
    """Return the parts of a message beside its text: what the client gave, checked, as the reply shows it."""
    extra: Json = {}
    entities = params.nested("entities", "entities")
    if entities is not None:
        if not isinstance(entities, list) or not all(_has(e, _ENTITY) for e in entities):
            raise bad_request("can't parse entities: object expected")
        extra["entities"] = entities
    markup = params.nested("reply_markup", "reply keyboard markup")
    if markup is None:
        return extra
    if not isinstance(markup, dict):
        raise bad_request("object expected as reply markup")
    if "inline_keyboard" in markup:
        extra["reply_markup"] = {"inline_keyboard": _keyboard(markup["inline_keyboard"])}
    return extra


def _keyboard(rows: Any) -> list[list[Json]]:
    if not isinstance(rows, list) or not all(isinstance(row, list) for row in rows):
        raise bad_request('field "inline_keyboard" of the InlineKeyboardMarkup must be an Array of Arrays')
    for button in (b for row in rows for b in row):
        if not _has(button, {"text": str}) or not button["text"]:
            raise bad_request("can't parse inline keyboard button: can't find field \"text\"")
        data = button.get("callback_data")
        if data is not None and (not isinstance(data, str) or not 1 <= len(data.encode(errors="replace")) <= 64):
            raise bad_request("BUTTON_DATA_INVALID")
        if len(button) < 2:
            raise bad_request("can't parse inline keyboard button: Text buttons are unallowed in the inline keyboard")
    return [row for row in rows if row]


def _has(value: Any, shape: Mapping[str, type]) -> bool:
    return isinstance(value, dict) and all(type(value.get(name)) is kind for name, kind in shape.items())
