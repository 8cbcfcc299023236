"""A stop finishes what was begun, and a start after it never meets the bot's own ghost (409)."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from runners import Bot, Place, wait_for

from multibot_plugin.sandbox.client import Sandbox
from multibot_plugin.supervisor.client import kill_tree
from multibot_runner.protocol import STOPPED

BOTS = Path(__file__).parents[1] / "bots"
# Two messages come with one poll; the first is being worked on when the stop comes, the second waits in the queue.
SLOW = """
import asyncio, os
from telegram.ext import Application, MessageHandler, filters

async def slowly(update, context):
    print("begun", flush=True)
    while not os.path.exists("go on"):
        await asyncio.sleep(0.01)
    await update.message.reply_text("done: " + update.message.text)

application = Application.builder().token(os.environ["BOT_TOKEN"]).build()
application.add_handler(MessageHandler(filters.TEXT, slowly))
application.run_polling(timeout=4)
"""


def make(place: Place, sandbox: Sandbox, form: str) -> Bot:
    file = place.file(f"{form}_echo.py", (BOTS / f"{form}_echo.py").read_text())
    target = {"build": f"{file}:build", "script": str(file), "command": f"{sys.executable} {file}"}[form]
    bot = place.bot(form, target, bot_api_url=sandbox.url)
    sandbox.register(bot.token, bot.id)
    return bot


@pytest.mark.parametrize("form", ["build", "script", "command"])
def test_a_start_right_after_a_stop_meets_no_ghost_also_after_a_kill(place: Place, sandbox: Sandbox, form: str) -> None:
    bot = make(place, sandbox, form)
    process = bot.start()
    for now in (False, True, False):
        wait_for(lambda: sandbox.counters(bot.token).polls_open == 1, "a poll")
        if now:
            kill_tree(process.pid)  # as 'bot stop --now' does
        else:
            process.terminate()
        process.wait(20)
        process = bot.start()
    wait_for(lambda: sandbox.counters(bot.token).polls_open == 1, "a poll")
    counters = sandbox.counters(bot.token)
    assert (counters.conflicts, counters.most_polls_open) == (0, 1)
    assert [run.stopping for run in bot.runs] == [False, True, False, True]


def test_a_stop_lets_a_bot_finish_the_updates_that_it_has(place: Place, sandbox: Sandbox) -> None:
    bot = place.script(SLOW, bot_api_url=sandbox.url, stop_wait_s=20.0)
    sandbox.register(bot.token, bot.id)
    for text in ("one", "two"):
        sandbox.say(bot.token, text)
    process = bot.start()
    bot.said("begun")
    process.terminate()
    wait_for(lambda: bot.runs[0].stopping, "the stop written down")
    (bot.paths.work / "go on").touch()
    assert process.wait(20) == 0
    assert bot.exit.cause == STOPPED
    answers = [entry.text for entry in sandbox.transcript(bot.token) if entry.by == "bot"]
    assert answers == ["done: one", "done: two"]
