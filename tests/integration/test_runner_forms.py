"""The three launch forms against a local Bot API server: answers, stamps, ends, and what must not be seen."""

from __future__ import annotations

import re
import shutil
import signal
import sys
from pathlib import Path

import pytest
from runners import Bot, Place, alive, wait_for

from multibot_plugin.sandbox.client import Sandbox
from multibot_runner.family import MARK
from multibot_runner.protocol import CRASHED, FINISHED, MISCONFIGURED, REJECTED, RUNNING, STOPPED

PAGE = Path(__file__).resolve().parents[2] / "docs" / "bots.md"
ECHO = """
    from telegram.ext import Application, MessageHandler, filters

    async def echo(update, context):
        await update.message.reply_text(update.message.text)
"""
BUILD = (
    ECHO
    + """
    def build(builder):
        application = builder.build()
        application.add_handler(MessageHandler(filters.TEXT, echo))
        return application
"""
)
SCRIPT = (
    ECHO
    + """
    import os

    def main():
        application = Application.builder().token(os.environ["BOT_TOKEN"]).build()
        application.add_handler(MessageHandler(filters.TEXT, echo))
        application.run_polling(timeout=4)

    if __name__ == "__main__":
        main()
"""
)
COMMAND = """
    import json, os, urllib.request

    def call(method, **parameters):
        request = urllib.request.Request(
            os.environ["BOT_API_URL"] + "/bot" + os.environ["BOT_TOKEN"] + "/" + method,
            json.dumps(parameters).encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)["result"]

    offset = 0
    while True:
        for update in call("getUpdates", offset=offset, timeout=4):
            offset = update["update_id"] + 1
            call("sendMessage", chat_id=update["message"]["chat"]["id"], text=update["message"]["text"])
"""


def make(place: Place, sandbox: Sandbox, form: str, **wish: object) -> Bot:
    """Make an echo bot of this form, known to the sandbox."""
    source = {"build": BUILD, "script": SCRIPT, "command": COMMAND}[form]
    file = place.file("echo.py", source)
    target = {"build": f"{file}:build", "script": str(file), "command": f"{sys.executable} -u {file}"}[form]
    bot = place.bot(form, target, bot_api_url=sandbox.url, **wish)
    sandbox.register(bot.token, bot.id)
    return bot


@pytest.mark.parametrize("form", ["build", "script", "command"])
def test_every_form_answers_and_ends_gracefully(place: Place, sandbox: Sandbox, form: str) -> None:
    bot = make(place, sandbox, form)
    process = bot.start()
    for text in ("one", "two"):
        assert sandbox.ask(bot.token, text, 30).text == text
    wait_for(lambda: sandbox.counters(bot.token).polls_open == 1, "one open poll")
    process.terminate()
    code = process.wait(20)
    assert (bot.exit.cause, bot.runs[0].stopping) == (STOPPED, True)
    assert code == (-signal.SIGTERM if form == "command" else 0)
    wait_for(lambda: sandbox.counters(bot.token).polls_open == 0, "no open poll")


@pytest.mark.parametrize(("example", "said"), [("build", "What shall it be?"), ("register", "hi")])
def test_the_build_functions_of_the_page_on_bots_answer(
    place: Place, sandbox: Sandbox, example: str, said: str
) -> None:
    sources = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (source,) = [source for source in sources if f"def {example}(" in source]
    bot = place.bot("build", f"{place.file('shop.py', source)}:{example}", bot_api_url=sandbox.url)
    sandbox.register(bot.token, bot.id)
    process = bot.start()
    assert sandbox.ask(bot.token, "/start", 30).text == said
    process.terminate()
    assert process.wait(20) == 0
    assert (f"{bot.id} keeps its files in {bot.paths.work}" in bot.log) == (example == "build")


@pytest.mark.parametrize("form", ["build", "script"])
def test_polls_and_updates_are_stamped(place: Place, sandbox: Sandbox, form: str) -> None:
    bot = make(place, sandbox, form)
    process = bot.start()
    sandbox.ask(bot.token, "hello", 30)

    def stamped() -> bool:
        h = bot.heartbeat
        return h is not None and h.update_count == 1 and h.poll_success_mono is not None

    wait_for(stamped, "an update in the heartbeat")
    heartbeat = bot.phase(process, RUNNING)
    assert heartbeat.polling_seen
    assert heartbeat.poll_timeout_s == (5.0 if form == "build" else 4.0)
    assert heartbeat.loop_mono is not None
    assert heartbeat.poll_code is None
    sandbox.fault(bot.token, status=409)
    wait_for(lambda: bot.heartbeat and bot.heartbeat.poll_code == 409, "the conflict in the heartbeat")
    sandbox.clear(bot.token)
    wait_for(lambda: bot.heartbeat and bot.heartbeat.poll_code is None, "the conflict over")
    sandbox.fault(bot.token, drop=True)
    before = heartbeat.poll_failure_mono
    wait_for(lambda: bot.heartbeat and bot.heartbeat.poll_failure_mono != before, "the failure in the heartbeat")


@pytest.mark.parametrize("form", ["build", "script"])
def test_a_token_refused_at_the_start_is_final(place: Place, sandbox: Sandbox, form: str) -> None:
    bot = make(place, sandbox, form)
    sandbox.revoke(bot.token)
    assert bot.run_to_end() == 78
    assert (bot.exit.cause, bot.exit.code) == (REJECTED, 78)
    assert bot.exit.text == "Telegram rejected the token (401 Unauthorized)"
    assert bot.token not in bot.log
    assert ":<redacted>` was rejected by the server" in bot.log


def test_a_token_revoked_while_a_build_bot_polls_is_final_and_the_bot_is_stopped_gracefully(
    place: Place, sandbox: Sandbox
) -> None:
    source = (
        BUILD.replace("builder.build()", "builder.post_stop(last).persistence(keep).build()")
        + """
    from telegram.ext import PicklePersistence

    keep = PicklePersistence("kept.pickle")

    async def last(application):
        application.bot_data["last"] = "word"
    """
    )
    bot = place.bot("build", f"{place.file('a_bot.py', source)}:build", bot_api_url=sandbox.url)
    sandbox.register(bot.token, bot.id)
    process = bot.start()
    wait_for(lambda: sandbox.counters(bot.token).polls_open == 1, "one open poll")
    sandbox.revoke(bot.token)
    assert process.wait(20) == 78
    assert bot.exit.cause == REJECTED
    assert (bot.paths.work / "kept.pickle").exists()


def test_a_script_that_asks_about_somebody_elses_token_is_not_rejected_itself(place: Place, sandbox: Sandbox) -> None:
    bot = make(place, sandbox, "script")
    other = place.script(f"""
        import httpx, os
        httpx.get("https://api.telegram.org/bot123456:{"B" * 35}/getMe")
        print(httpx.post(f"https://api.telegram.org/bot{{os.environ['BOT_TOKEN']}}/getMe").status_code)
        print(httpx.get("https://api.telegram.org/file/bot1/x").status_code)
    """, bot_api_url=sandbox.url)  # fmt: skip
    sandbox.register(other.token, other.id)
    sandbox.register(f"123456:{'B' * 35}", "foreign")
    sandbox.revoke("123456")
    assert other.run_to_end() == 0
    assert other.exit.cause == FINISHED
    assert other.log.splitlines()[0] == "200"
    assert bot.runs == ()


LEAK = """
    import logging, os, sys, threading, traceback, warnings
    token = os.environ["BOT_TOKEN"]
    logging.basicConfig(level="INFO")
    print(token, repr(token), token.replace(":", "%3A"))
    for cut in (3, 10, 11, 25):
        sys.stdout.write(token[:cut])
        sys.stdout.flush()
        sys.stdout.write(token[cut:] + "\\n")
        sys.stdout.flush()
    sys.stdout.buffer.write(token.encode() + b"\\n")
    sys.stdout.buffer.flush()
    sys.__stderr__.write(f"under {token}\\n")
    logging.info("GET https://api.telegram.org/bot%s/getMe", token)
    warnings.warn(f"careful with {token}")
    from telegram import Bot
    print(repr(Bot(token)), file=sys.stderr)
    thread = threading.Thread(target=lambda: 1 / int(f"{token}"))
    thread.start()
    thread.join()
    print("...", end="", flush=True)
    sys.stdout.write(token)
    raise RuntimeError(f"no good: {token}") from ValueError(token)
"""


def test_a_token_written_through_python_is_in_no_log_in_whatever_way(place: Place) -> None:
    bot = place.script(LEAK)
    assert bot.run_to_end() == 1
    number, _, secret = bot.token.partition(":")
    assert secret not in bot.log
    assert secret[:12] not in bot.log
    assert bot.log.count(f"{number}:<redacted>") >= 13
    assert f"RuntimeError: no good: {number}:<redacted>\n" in bot.log
    assert "multibot_runner" not in bot.log
    assert bot.exit.cause == CRASHED
    assert bot.exit.text.startswith(f"RuntimeError: no good: {number}:<redacted> (bot.py:")


def test_a_command_bots_output_is_redacted_too_and_flows(place: Place) -> None:
    program = place.file(
        "split.py",
        """
        import os, time
        token = os.environ["BOT_TOKEN"].encode()
        os.write(1, token[:30])
        os.write(1, token[30:] + b"\\n")
        os.write(1, b"...")
        time.sleep(600)
    """,
    )
    bot = place.bot("command", f"{sys.executable} {program}")
    process = bot.start()
    bot.said("...")
    assert bot.log.splitlines()[0] == bot.token.partition(":")[0] + ":<redacted>"
    process.terminate()
    process.wait(10)


def test_a_script_runs_as_if_started_directly(place: Place) -> None:
    source = """
        import __main__, os, sys, atexit, threading
        import neighbour
        print(__name__, __main__.answer if hasattr(__main__, "answer") else None, sys.argv, sys.path[0], __file__)
        answer = 42
        atexit.register(lambda: print("atexit", __main__.answer))
        threading.Timer(0.2, lambda: print("thread", __main__.answer)).start()
        sys.exit("a last word")
    """
    bot = place.script(source)
    (place.file("neighbour.py", "").parent / "neighbour.py").write_text("")
    file = settings_target(bot, place)
    shutil.copy(place.top / "bots" / "1" / "neighbour.py", file.parent)
    assert bot.run_to_end() == 1
    assert bot.log.splitlines()[:4] == [
        f"__main__ None ['{file}'] {file.parent} {file}", "a last word", "thread 42",
        "multibot: ended by itself, exit code 1",
    ]  # fmt: skip
    assert bot.log.splitlines()[4] == "atexit 42"


def settings_target(bot: Bot, place: Place) -> Path:
    return place.top / "bots" / "0" / "bot.py"


@pytest.mark.parametrize(
    ("source", "code", "cause", "text"),
    [
        ("import sys; sys.exit(5)", 5, CRASHED, "ended by itself, exit code 5"),
        ("pass", 0, FINISHED, "ended by itself, exit code 0"),
        ("import absent_thing", 1, CRASHED, "ModuleNotFoundError: No module named 'absent_thing' (bot.py:1)"),
        ("import json\ndef f(t):\n    json.loads(t)\nf(3)", 1, CRASHED,
         "TypeError: the JSON object must be str, bytes or bytearray, not int (bot.py:3)"),
        ("x = [0] * (1 << 60)", 1, CRASHED, "out of memory: MemoryError (bot.py:1)"),
        ("import sys; sys.exit(79)", 1, CRASHED, "ended by itself, exit code 79"),
        ("def f(:", 1, CRASHED, "SyntaxError: invalid syntax (bot.py:1)"),
        ("raise KeyboardInterrupt", -2, CRASHED, "killed by SIGINT"),
    ],
)  # fmt: skip
def test_how_a_script_ended_is_written_down_and_passed_on(
    place: Place, source: str, code: int, cause: str, text: str
) -> None:
    bot = place.script(source)
    assert bot.run_to_end() == code
    assert (bot.exit.cause, bot.exit.text) == (cause, text)


def test_a_package_can_be_a_script(place: Place) -> None:
    file = place.file("package/__main__.py", "import sys; print(__name__, __package__, sys.argv[1:])")
    bot = place.bot("script", "-m package one", workdir=str(file.parent.parent))
    assert bot.run_to_end() == 0
    assert bot.log.splitlines()[0] == "__main__ package ['one']"
    folder = place.bot("script", str(file.parent))
    assert folder.run_to_end() == 0
    assert folder.log.splitlines()[0] == "__main__  []"


def test_a_script_with_an_executor_left_open_ends_as_it_would_by_itself(place: Place) -> None:
    bot = place.script("""
        import concurrent.futures, sys
        print(concurrent.futures.ThreadPoolExecutor().submit(str, 1).result())
        sys.exit(6)
    """)
    assert bot.run_to_end() == 6
    assert bot.log.splitlines()[0] == "1"


@pytest.mark.parametrize("words", ["sh -c 'exit 9'", "sh -c 'kill -SEGV $$'", "true"])
def test_how_a_command_ended_is_passed_on(place: Place, words: str) -> None:
    bot = place.bot("command", words)
    code = bot.run_to_end()
    assert code == {"9'": 9, "$$'": -signal.SIGSEGV, "true": 0}[words.split()[-1]]
    assert bot.exit.cause == (CRASHED if code else FINISHED)


def test_all_children_of_a_command_end_with_it_also_those_that_left_its_group(place: Place) -> None:
    shell = """
        trap "" TERM
        setsid sleep 601 &
        sleep 602 &
        (sleep 603 &)
        echo up
        while :; do wait; done
    """
    bot = place.bot("command", f"sh {place.file('bot.sh', shell)}", stop_wait_s=0.5)
    process = bot.start()
    bot.said("up")
    wait_for(lambda: len(place.processes()) == 5, "five processes")
    process.terminate()
    assert process.wait(20) == -signal.SIGKILL
    assert place.processes() == []
    assert (bot.exit.cause, bot.exit.text) == (STOPPED, "stopped: killed 0.5 s after SIGTERM")


def test_a_command_that_ends_takes_its_children_with_it(place: Place) -> None:
    bot = place.bot("command", "sh -c 'setsid sleep 600 & exit 4'")
    assert bot.run_to_end() == 4
    assert place.processes() == []


def test_a_command_ends_when_its_runner_is_killed(place: Place) -> None:
    bot = place.bot("command", "sleep 600")
    process = bot.start()
    wait_for(lambda: len(place.processes()) == 2, "the program")
    process.kill()
    process.wait()
    wait_for(lambda: not place.processes(), "nothing left")


def test_the_environment_is_the_inherited_one_and_what_the_bot_wants(place: Place) -> None:
    file = place.file(".env", "FROM_FILE=file\nBOTH=file\n")
    bot = place.script(
        """
        import os
        for key in sorted(os.environ):
            print(key, os.environ[key])
        """, env={"BOTH": "own", "PYTHONPATH": "/somewhere"}, env_file=str(file), token_var="MY_TOKEN",
    )  # fmt: skip
    assert bot.run_to_end(INHERITED="yes", SUPERVISOR_SERVER_URL="unix:///x", MULTIBOT_CONFIG="/etc/x") == 0
    seen = dict(line.split(" ", 1) for line in bot.log.splitlines() if line.count(" "))
    assert (seen["INHERITED"], seen["FROM_FILE"], seen["BOTH"], seen["BOT_API_URL"]) == (
        "yes", "file", "own", "http://127.0.0.1:9",
    )  # fmt: skip
    assert seen["MY_TOKEN"].endswith(":<redacted>")
    assert not [k for k in seen if k.startswith(("SUPERVISOR_", "MULTIBOT_")) and k != "MULTIBOT_BOT_RUN"]


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("def build(builder): return builder", "must return the Application (builder.build()), it returned Applic"),
        ("async def build(builder): return builder.build()", "is an async function: make it a plain one"),
        ("def build(builder): builder.build().run_polling()", "runs the bot itself: leave run_polling() out"),
        ("def build(builder): return builder.bot(None).build()", "was set. (token and server are set by multibot)"),
        ("def other(builder): pass", "has no function 'build'"),
        (f"def build(builder): return builder.token('123456:{'B' * 35}').build()", "sets another token"),
        ("def build(builder): return builder.updater(None).build()", "without an Updater"),
        ("def register(application): return 1", "has no function 'build'"),
    ],
)
def test_the_traps_of_a_build_function_are_named(place: Place, source: str, text: str) -> None:
    bot = place.bot("build", f"{place.file('a_bot.py', source)}:build")
    assert bot.run_to_end() == 78
    assert bot.exit.cause == MISCONFIGURED
    assert text in bot.exit.text


def test_a_missing_module_is_named_and_a_module_that_it_lacks_is_the_bots_own_crash(place: Place) -> None:
    bot = place.bot("build", "absent_bot.inner:build")
    assert bot.run_to_end() == 78
    assert bot.exit.text.startswith("no module named 'absent_bot' in ")
    file = place.file("my_bot.py", "import absent_thing")
    other = place.bot("build", "my_bot:build", workdir=str(file.parent))
    assert other.run_to_end() == 1
    assert (other.exit.cause, other.exit.text) == (
        CRASHED, "ModuleNotFoundError: No module named 'absent_thing' (my_bot.py:1)"
    )  # fmt: skip
    gone = place.bot("build", "/nonexistent/b.py:build")
    assert gone.run_to_end() == 78
    assert gone.exit.text == "build /nonexistent/b.py: no such file"


def test_a_build_function_may_ask_for_its_context(place: Place, sandbox: Sandbox) -> None:
    source = """
        def build(builder, bot):
            bot.logger.warning("%s %s %s", bot.id, bot.paths.work, bot.settings.poll_timeout_s)
            # All options are open: nothing of the builder's is set but token, server and rate limiter.
            builder = builder.get_updates_read_timeout(20).read_timeout(9).get_updates_connection_pool_size(2)
            made = builder.concurrent_updates(True).post_init(first).build()
            bot.logger.warning("limits: %s", type(made.bot.rate_limiter).__name__)
            return made

        async def first(application):
            print("first")
    """
    bot = place.bot("build", f"{place.file('a_bot.py', source)}:build", bot_api_url=sandbox.url)
    sandbox.register(bot.token, bot.id)
    bot.start()
    for text in (f"{bot.id} {bot.paths.work} 5.0", "limits: AIORateLimiter", "first\n"):
        bot.said(text)
    wait_for(lambda: bot.heartbeat and bot.heartbeat.poll_timeout_s == 5.0, "a poll")


def test_a_build_bot_outlives_a_server_that_is_away_at_the_start(place: Place, sandbox: Sandbox) -> None:
    bot = make(place, sandbox, "build")
    sandbox.fault(bot.token, status=502, times=2, method="getMe")
    bot.start()
    assert sandbox.ask(bot.token, "late", 30).text == "late"


def test_a_frozen_build_bot_stops_beating_and_its_stop_is_written_down(place: Place, sandbox: Sandbox) -> None:
    source = BUILD.replace("await update.message.reply_text(update.message.text)",
                           "import time; print('frozen', flush=True); time.sleep(600)")  # fmt: skip
    bot = place.bot("build", f"{place.file('a_bot.py', source)}:build", bot_api_url=sandbox.url, stop_wait_s=1.0)
    sandbox.register(bot.token, bot.id)
    process = bot.start()
    sandbox.say(bot.token, "hi")
    bot.said("frozen")
    process.terminate()
    assert process.wait(20) == -signal.SIGALRM
    assert bot.runs[0].stopping
    assert not bot.runs[0].died


def test_what_python_telegram_bot_does_not_need_is_not_loaded(place: Place) -> None:
    bot = place.script("""
        import sys
        import telegram.ext
        print([m for m in ("httpx._main", "click", "rich", "pygments", "pydantic", "aiohttp", "multibot_plugin")
               if m in sys.modules])
        import httpx, httpx._main, inspect
        print(httpx.__spec__.loader.__class__.__name__, inspect.iscoroutinefunction(httpx.AsyncClient.send))
    """)
    assert bot.run_to_end() == 0
    assert bot.log.splitlines()[:2] == ["[]", "SourceFileLoader True"]


def test_a_command_bot_that_is_killed_again_and_again_never_polls_twice(place: Place, sandbox: Sandbox) -> None:
    bot = make(place, sandbox, "command")
    for _ in range(3):
        process = bot.start()
        wait_for(lambda: sandbox.counters(bot.token).polls_open == 1, "one open poll")
        process.kill()
        process.wait()
        assert not alive(process.pid)
    counters = sandbox.counters(bot.token)
    assert counters.conflicts == 0


@pytest.mark.parametrize(("code", "text"), [(3, "ended by itself, exit code 3"), (0, "ended by itself, exit code 0")])
def test_a_script_that_leaves_without_a_word_has_its_exit_written_down(place: Place, code: int, text: str) -> None:
    bot = place.script(f"""
        import multiprocessing, os
        child = multiprocessing.get_context("fork").Process(target=os._exit, args=(5,))
        child.start()
        child.join()
        os._exit({code})
    """)
    assert bot.run_to_end() == code
    assert bot.exit.text == text


def test_the_mark_of_a_bot_cannot_be_set_by_its_configuration(place: Place) -> None:
    bot = place.script(f"import os; print('mark', os.environ[{MARK!r}])", env={MARK: "/elsewhere"})
    assert bot.run_to_end() == 0
    assert f"mark {bot.paths.run_dir}\n" in bot.log
