"""An echo bot as an unchanged aiogram script. Some texts make it misbehave; ``API_SERVER`` is the library's option."""

import asyncio
import logging
import os
import sys
import time

if "CRASH" in os.environ:
    raise RuntimeError("no good")

from aiogram import Bot, Dispatcher
from aiogram.client.session.aiohttp import AiohttpSession
from aiogram.client.telegram import PRODUCTION, TelegramAPIServer
from aiogram.types import Message

TOKEN = os.environ["BOT_TOKEN"]
SERVER = os.environ.get("API_SERVER")
dispatcher = Dispatcher()


@dispatcher.message()
async def echo(message: Message) -> None:
    if message.text == "freeze":
        time.sleep(600)  # noqa: ASYNC251 - the loop is meant to stand still
    if message.text == "slow":
        await asyncio.sleep(600)
    await message.answer(message.text)


async def main() -> None:
    session = AiohttpSession(api=TelegramAPIServer.from_base(SERVER) if SERVER else PRODUCTION)
    await dispatcher.start_polling(Bot(TOKEN, session=session), polling_timeout=int(os.environ.get("POLL_S", "5")))


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, stream=sys.stdout)
    asyncio.run(main())
