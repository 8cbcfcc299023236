"""An echo bot as a build function."""

from telegram.ext import MessageHandler, filters


async def echo(update, context):
    await update.message.reply_text(update.message.text)


def build(builder):
    application = builder.build()
    application.add_handler(MessageHandler(filters.TEXT, echo))
    return application
