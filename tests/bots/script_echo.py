"""An echo bot as an unchanged python-telegram-bot script. Some texts make it misbehave, for tests."""

import asyncio
import os
import sys
import time

if "CRASH" in os.environ:
    raise RuntimeError("no good")

from telegram.ext import Application, MessageHandler, filters


async def echo(update, context):
    text = update.message.text
    if text == "freeze":
        time.sleep(600)  # noqa: ASYNC251 - the loop is meant to stand still
    if text == "slow":
        await asyncio.sleep(600)
    if text.startswith("grow "):
        context.bot_data["ballast"] = bytearray(os.urandom(1024)) * 1024 * int(text.split()[1])
    if text == "leak":
        token = context.bot.token
        print("token", token, "and in parts: ", end="")
        sys.stdout.write(token[:20])
        sys.stdout.flush()
        sys.stdout.write(token[20:] + "\n")
        print(repr(context.bot), token.replace(":", "%3A"), file=sys.stderr)
        raise RuntimeError(f"no good: {token}")
    await update.message.reply_text(text)


def main():
    builder = Application.builder().token(os.environ["BOT_TOKEN"])
    if "API_SERVER" in os.environ:
        builder.base_url(os.environ["API_SERVER"] + "/bot")
    application = builder.build()
    application.add_handler(MessageHandler(filters.TEXT, echo))
    application.run_polling(timeout=int(os.environ.get("POLL_S", "5")))


if __name__ == "__main__":
    main()
