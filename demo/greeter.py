"""A bot as a ``build`` function: multibot gives a prepared builder, the bot adds what it can do.

multibot bot create greeter --build multibot_demo.greeter:build --token-stdin
"""

from __future__ import annotations

from typing import Any

from telegram import Update
from telegram.ext import (
    Application,
    ApplicationBuilder,
    CommandHandler,
    ContextTypes,
    MessageHandler,
    filters,
)

Builder = ApplicationBuilder[Any, Any, Any, Any, Any, Any]


async def start(update: Update, context: ContextTypes.DEFAULT_TYPE) -> None:
    if update.message is not None and update.effective_user is not None:
        name = update.effective_user.first_name
        await update.message.reply_text(f"Hello {name}! I am greeter, started by a build function.")


async def answer(update: Update, context: ContextTypes.DEFAULT_TYPE) -> None:
    if update.message is not None and update.effective_user is not None:
        await update.message.reply_text(f"Nice to hear from you, {update.effective_user.first_name}.")


def build(builder: Builder) -> Application[Any, Any, Any, Any, Any, Any]:
    application = builder.build()
    application.add_handler(CommandHandler("start", start))
    application.add_handler(MessageHandler(filters.TEXT & ~filters.COMMAND, answer))
    return application
