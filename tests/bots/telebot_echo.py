"""An echo bot as an unchanged pyTelegramBotAPI script. Some texts make it misbehave."""

import os
import time

if "CRASH" in os.environ:
    raise RuntimeError("no good")

import telebot

if "API_SERVER" in os.environ:
    telebot.apihelper.API_URL = os.environ["API_SERVER"] + "/bot{0}/{1}"

bot = telebot.TeleBot(os.environ["BOT_TOKEN"])


@bot.message_handler(func=lambda message: True)
def echo_all(message):
    if message.text in ("freeze", "slow"):
        time.sleep(600)
    bot.reply_to(message, message.text)


bot.infinity_polling(long_polling_timeout=int(os.environ.get("POLL_S", "5")))
