"""An echo bot as an aiogram script that has its updates delivered, to aiohttp's server on ``PORT``."""

import asyncio
import logging
import os
import sys
import time

from aiogram import Bot, Dispatcher
from aiogram.client.session.aiohttp import AiohttpSession
from aiogram.client.telegram import PRODUCTION, TelegramAPIServer
from aiogram.types import Message
from aiogram.webhook.aiohttp_server import SimpleRequestHandler, setup_application
from aiohttp import web

TOKEN = os.environ["BOT_TOKEN"]
SERVER = os.environ.get("API_SERVER")
URL = os.environ["WEBHOOK_URL"]
SECRET = "my-secret"
dispatcher = Dispatcher()


@dispatcher.message()
async def echo(message: Message) -> None:
    if message.text == "freeze":
        time.sleep(600)  # noqa: ASYNC251 - the loop is meant to stand still
    if message.text == "slow":
        await asyncio.sleep(600)
    await message.answer(message.text)


@dispatcher.startup()
async def on_startup(bot: Bot) -> None:
    await bot.set_webhook(URL, secret_token=SECRET)


def main() -> None:
    session = AiohttpSession(api=TelegramAPIServer.from_base(SERVER) if SERVER else PRODUCTION)
    bot = Bot(TOKEN, session=session)
    application = web.Application()
    SimpleRequestHandler(dispatcher, bot, secret_token=SECRET).register(application, path="/webhook")
    setup_application(application, dispatcher, bot=bot)
    web.run_app(application, host="127.0.0.1", port=int(os.environ["PORT"]))


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, stream=sys.stdout)
    main()
