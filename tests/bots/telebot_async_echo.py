"""An echo bot as an unchanged script of pyTelegramBotAPI's asynchronous half. Some texts make it misbehave."""

import asyncio
import os
import time

if "CRASH" in os.environ:
    raise RuntimeError("no good")

from telebot import asyncio_helper
from telebot.async_telebot import AsyncTeleBot

if "API_SERVER" in os.environ:
    asyncio_helper.API_URL = os.environ["API_SERVER"] + "/bot{0}/{1}"

bot = AsyncTeleBot(os.environ["BOT_TOKEN"])


@bot.message_handler(func=lambda message: True)
async def echo_message(message):
    if message.text == "freeze":
        time.sleep(600)  # noqa: ASYNC251 - the loop is meant to stand still
    if message.text == "slow":
        await asyncio.sleep(600)
    await bot.reply_to(message, message.text)


asyncio.run(bot.infinity_polling(timeout=int(os.environ.get("POLL_S", "5"))))
