"""An echo bot as a build function."""

import asyncio
import logging
import os
import time

if "CRASH" in os.environ:
    raise RuntimeError("no good")

from telegram.ext import MessageHandler, filters


async def echo(update, context):
    text = update.message.text
    if text == "freeze":
        time.sleep(600)  # noqa: ASYNC251 - the loop is meant to stand still
    if text == "slow":
        await asyncio.sleep(600)
    if text == "leak":
        token = context.bot.token
        print("token", token, repr(context.application))
        logging.getLogger("bot").warning("logged: %s", {"token": token})
        raise RuntimeError(f"no good: {token}")
    await update.message.reply_text(text)


def build(builder):
    application = builder.build()
    application.add_handler(MessageHandler(filters.TEXT, echo))
    return application
