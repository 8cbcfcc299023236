"""An echo bot as a build function."""

import logging

from telegram.ext import MessageHandler, filters


async def echo(update, context):
    text = update.message.text
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
