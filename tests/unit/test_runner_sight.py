"""What the runner makes of calls, updates and loops; with the libraries: integration/test_runner_libraries.py."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
import threading
import types
from pathlib import Path
from typing import Any

import pytest

from multibot_runner import record
from multibot_runner.protocol import BotPaths
from multibot_runner.readers import read_heartbeat
from multibot_runner.record import Recorder
from multibot_runner.sight import after_import, seen_handlers
from multibot_runner.sight.after_import import Hook
from multibot_runner.sight.beat import LoopBeat
from multibot_runner.sight.handling import Handling
from multibot_runner.sight.polls import Call, PollWatch, parameters_of
from multibot_runner.target import words_of

TOKEN = f"123456:{'A' * 35}"


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def recorder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recorder:
    monkeypatch.setattr(Recorder, "_write_soon", lambda self: None)  # no thread that outlives a test
    paths = BotPaths(tmp_path, tmp_path, "greeter")
    paths.run_dir.mkdir(parents=True)
    return Recorder(paths, 1.0)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def handling(recorder: Recorder, clock: Clock) -> Handling:
    return Handling(recorder, lambda: None, clock)


def test_until_an_update_is_begun_nothing_is_told_of_those_that_wait(recorder: Recorder, handling: Handling) -> None:
    handling.polled([1, 2])
    assert (recorder.heartbeat.handlers_seen, recorder.heartbeat.oldest_update_mono) == (False, None)
    handling.begin([1])
    assert (recorder.heartbeat.handlers_seen, recorder.heartbeat.oldest_update_mono) == (True, 100.0)


def test_the_oldest_is_the_one_that_waits_longest_begun_or_not(
    recorder: Recorder, handling: Handling, clock: Clock
) -> None:
    handling.polled([1])
    clock.now = 110.0
    handling.polled([2])
    handling.begin([1])
    clock.now = 115.0
    handling.end([1])
    heartbeat = recorder.heartbeat
    assert (heartbeat.oldest_update_mono, heartbeat.handler_latency_s, heartbeat.handled_count) == (110.0, 15.0, 1)
    handling.begin([2])
    handling.end([2])
    assert (recorder.heartbeat.oldest_update_mono, recorder.heartbeat.handled_count) == (None, 2)


def test_what_was_skipped_does_not_wait_for_ever(recorder: Recorder, handling: Handling, clock: Clock) -> None:
    handling.polled([1, 2, 3])
    clock.now = 110.0
    handling.polled([4])
    handling.begin([4])
    assert recorder.heartbeat.oldest_update_mono == 110.0
    handling.begin([2])  # somebody reorders them: it is known, and no new one
    assert recorder.heartbeat.update_count == 0
    handling.end([4])
    assert recorder.heartbeat.oldest_update_mono == 100.0


def test_an_update_that_no_poll_brought_came_by_webhook_and_counts_once(recorder: Recorder, handling: Handling) -> None:
    handling.delivered(7)
    handling.delivered(7)
    handling.begin([7])
    handling.begin([8])
    assert (recorder.heartbeat.update_count, recorder.heartbeat.update_mono is not None) == (2, True)
    handling.begin([8])  # delivered again, because the first is still being handled
    handling.end([8])
    handling.end([8])
    assert (recorder.heartbeat.update_count, recorder.heartbeat.handled_count) == (2, 1)


def test_an_update_that_the_bot_has_kept_does_not_wait(recorder: Recorder, handling: Handling) -> None:
    handling.polled([8])
    handling.begin([8])
    handling.end([8])
    for kept in (8, 3):
        handling.delivered(kept)
    assert (recorder.heartbeat.oldest_update_mono, recorder.heartbeat.update_count) == (None, 0)
    handling.begin([7])  # by webhooks they may come in another order
    assert (recorder.heartbeat.oldest_update_mono, recorder.heartbeat.update_count) == (100.0, 1)


def test_a_signals_handler_may_tell_within_what_is_told(recorder: Recorder) -> None:
    def clock() -> float:
        if not signals:
            signals.append("SIGTERM")
            handling.begin([1])
            handling.end([1])
        return 100.0

    signals: list[str] = []
    handling = Handling(recorder, lambda: None, clock)
    thread = threading.Thread(target=handling.polled, args=([1],), daemon=True)
    thread.start()
    thread.join(5)
    assert not thread.is_alive()
    assert (recorder.heartbeat.handled_count, recorder.heartbeat.oldest_update_mono) == (1, None)


def watch(recorder: Recorder, handling: Handling, url: str = "http://127.0.0.1:9/api") -> PollWatch:
    return PollWatch(recorder, handling, url, TOKEN)


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("https://api.telegram.org/bot1:A/getMe", "http://127.0.0.1:9/api/bot1:A/getMe"),
        ("https://API.telegram.org:443/bot1:A/getMe?x=1", "http://127.0.0.1:9/api/bot1:A/getMe?x=1"),
        ("https://api.telegram.org", "http://127.0.0.1:9/api"),
        ("https://api.telegram.org.evil.example/", "https://api.telegram.org.evil.example/"),
        ("https://example.org/?u=https://api.telegram.org/", "https://example.org/?u=https://api.telegram.org/"),
    ],
)
def test_calls_for_telegram_go_to_the_configured_server_and_no_others(
    recorder: Recorder, handling: Handling, url: str, target: str
) -> None:
    assert watch(recorder, handling).rewrite(url) == target
    assert watch(recorder, handling, "https://api.telegram.org").rewrite(url) == url


@pytest.mark.parametrize(
    ("method", "counts"),
    [("sendMessage", 1), ("EDITMESSAGETEXT", 1), ("copyMessages", 1), ("forwardMessage", 1), ("sendChatAction", None),
     ("setWebhook", None), ("editForumTopic", None), ("getFile", None)],
)  # fmt: skip
def test_only_what_reaches_a_chat_was_sent(
    recorder: Recorder, handling: Handling, method: str, counts: int | None
) -> None:
    seen = watch(recorder, handling)
    call = seen.begin(f"/bot{TOKEN}/{method}", dict)
    assert call is not None
    seen.end(call, 400, b"")
    assert recorder.heartbeat.sent_count == 0
    seen.end(call, 200, b"")
    assert recorder.heartbeat.sent_count == (counts or 0)


def test_the_last_of_the_bots_own_calls_says_whether_telegram_answers(recorder: Recorder, handling: Handling) -> None:
    seen = watch(recorder, handling)
    for method in ("getMe", "deleteWebhook", "getUpdates", "sendMessage"):
        call = seen.begin(f"/bot{TOKEN}/{method}", dict)
        assert call is not None
        seen.fail(call)
        assert seen.unanswered
        seen.end(call, 502, b"")
        assert seen.unanswered
        seen.end(call, 200, b"")
        assert not seen.unanswered
        seen.end(call, 302, b"<html>")
        assert seen.unanswered is call.asking
        seen.end(call, 400, b'{"ok":false}')
        assert not seen.unanswered
    other = seen.begin(f"/bot{TOKEN[:-1]}B/getMe", dict)
    assert other is not None
    seen.fail(other)
    assert not seen.unanswered


def test_a_flood_tells_until_when(recorder: Recorder, handling: Handling) -> None:
    seen = watch(recorder, handling)
    call = Call("getupdates", own=True)
    seen.end(call, 429, b'{"ok":false,"parameters":{"retry_after": 30}}')
    heartbeat = recorder.heartbeat
    assert heartbeat.poll_failure_mono is not None
    assert heartbeat.flood_until_mono == heartbeat.poll_failure_mono + 30
    seen.end(call, 502, b"<html>")
    assert (recorder.heartbeat.poll_code, recorder.heartbeat.flood_until_mono) == (502, None)


def test_once_a_bots_own_poll_is_seen_no_other_tokens_says_how_it_is(recorder: Recorder, handling: Handling) -> None:
    seen = watch(recorder, handling)

    def poll(token: str, status: int, body: bytes = b'{"ok":true,"result":[{"update_id":1}]}') -> None:
        call = seen.begin(f"/bot{token}/getUpdates", lambda: {"timeout": 7})
        assert call is not None
        seen.fail(call) if status == 0 else seen.end(call, status, body)

    other = f"999999:{'B' * 35}"
    poll(other, 200)  # written in its code, for all we know
    assert (recorder.heartbeat.poll_success_mono is not None, recorder.heartbeat.update_count) == (True, 1)
    poll(TOKEN, 401, REFUSAL)
    told = recorder.heartbeat
    assert told.poll_code == 401
    for status in (200, 409, 0):
        poll(other, status)
    assert recorder.heartbeat == told


REFUSAL = b'{"ok":false,"error_code":401,"description":"Unauthorized"}'


@pytest.mark.parametrize("method", ["getMe", "getUpdates"])
def test_only_telegram_refuses_a_token_and_only_this_bots_own_counts(
    recorder: Recorder, handling: Handling, method: str
) -> None:
    seen = watch(recorder, handling)
    left: list[int | None] = []
    seen.on_rejected = lambda: left.append(seen.rejected)
    answers = [
        (f"999999:{'B' * 35}", 401, REFUSAL, None),
        (TOKEN, 404, b"404 page not found", None),
        (TOKEN, 401, REFUSAL, 401),
        (f"999999:{'B' * 35}", 200, b'{"ok":true,"result":[]}', 401),
        (TOKEN, 200, b'{"ok":true,"result":[]}', None),
    ]
    for token, status, body, rejected in answers:
        call = seen.begin(f"/bot{token}/{method}", dict)
        assert call is not None
        seen.end(call, status, body)
        assert seen.rejected == rejected
        if status != 200:
            assert recorder.heartbeat.poll_code == rejected
    assert left == ([401] if method == "getUpdates" else [])


def test_a_conflict_with_a_webhook_is_told_from_one_with_another_poller(recorder: Recorder, handling: Handling) -> None:
    seen = watch(recorder, handling)
    call = Call("getupdates", own=True)
    poller = b'{"ok":false,"description":"Conflict: terminated by other getUpdates request"}'
    webhook = b'{"ok":false,"description":"Conflict: can\'t use getUpdates method while webhook is active; use ..."}'
    for status, body, told in ((409, webhook, True), (409, poller, False), (409, webhook, True), (200, b"{}", False)):
        seen.end(call, status, body)
        assert recorder.heartbeat.poll_webhook is told


@pytest.mark.parametrize(
    "given", [("timeout=7",), (b"", b"limit=1&timeout=7"), ("", '{"timeout": 7}'), ("timeout=5", None, {"timeout": 7})]
)
def test_a_polls_timeout_is_found_wherever_a_library_puts_it(given: tuple[Any, ...]) -> None:
    assert int(parameters_of(*given)["timeout"]) == 7


@pytest.mark.parametrize(
    ("asked", "told"), [("30", 30.0), (-1, 0.0), (30000, 50.0), ("inf", 50.0), ("nan", 0.0), ("long", None)]
)
def test_whatever_a_poll_asks_for_the_heartbeat_says_how_long_telegram_holds_it(
    recorder: Recorder, handling: Handling, asked: Any, told: float | None
) -> None:
    watch(recorder, handling).begin(f"/bot{TOKEN}/getUpdates", lambda: {"timeout": asked})
    found = read_heartbeat(recorder.paths)
    assert found is not None
    assert found.poll_timeout_s == told


def test_updates_are_counted_by_their_numbers_not_by_what_is_written_in_them(
    recorder: Recorder, handling: Handling
) -> None:
    body = rb'{"ok":true,"result":[{"update_id":1,"message":{"text":"\"update_id\":2"}},{"update_id" : 3}]}'
    watch(recorder, handling).end(Call("getupdates", own=True), 200, body)
    assert recorder.heartbeat.update_count == 2


def written(recorder: Recorder) -> float | None:
    """Return the beat that stands in the file."""
    found = read_heartbeat(recorder.paths)
    assert found is not None
    return found.loop_mono


async def turns() -> None:
    await asyncio.sleep(0)
    await asyncio.sleep(0)


def test_a_loop_that_is_closed_is_not_a_loop_that_stands_still(recorder: Recorder) -> None:
    beat = LoopBeat(recorder)

    async def poll() -> None:
        beat.here()
        beat.here()
        await turns()
        assert written(recorder) is not None

    for _ in range(2):
        asyncio.run(poll())
        assert written(recorder) is None
    beat.here()  # a poll without a loop
    assert written(recorder) is None


def test_a_loop_that_is_left_beats_again_when_it_is_entered_again(recorder: Recorder) -> None:
    beat = LoopBeat(recorder)
    loop = asyncio.new_event_loop()
    beat.on(loop)

    async def look() -> float | None:
        await turns()
        return written(recorder)

    for _ in range(3):
        assert loop.run_until_complete(look()) is not None
        assert written(recorder) is None
    loop.close()


def test_entering_a_loop_a_thousand_times_writes_no_thousand_files(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    files: list[bytes] = []
    monkeypatch.setattr(record, "replace_file", lambda path, data, **options: files.append(data))
    loop = asyncio.new_event_loop()
    LoopBeat(recorder).on(loop)
    for _ in range(1000):
        loop.run_until_complete(turns())
    loop.close()
    assert len(files) < 60
    assert b'"loop_mono": null' in files[-1]


def test_a_bot_that_goes_to_and_fro_between_loops_beats_on_the_one_that_runs(recorder: Recorder) -> None:
    beat = LoopBeat(recorder)
    loops = [asyncio.new_event_loop() for _ in range(2)]

    async def poll() -> float | None:
        beat.here()
        await turns()
        return recorder.heartbeat.loop_mono

    for _ in range(1100):  # Python calls no deeper than 1000
        for loop in loops:
            assert loop.run_until_complete(poll()) is not None
            assert recorder.heartbeat.loop_mono is None
    for loop in loops:
        loop.close()


def test_a_module_of_another_version_is_told_in_one_line_and_imported_all_the_same(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "strange_library.py").write_text("answer = 42")
    monkeypatch.syspath_prepend(tmp_path)
    finders = list(sys.meta_path)

    def patch(module: Any) -> None:
        module.Client.send = None

    known = types.ModuleType("known_library")
    monkeypatch.setitem(sys.modules, "known_library", known)
    after_import.install({"strange_library": Hook(patch), "known_library": Hook(patch)})
    import strange_library  # type: ignore[import-not-found]

    monkeypatch.delitem(sys.modules, "strange_library")
    sys.meta_path[:] = finders
    assert strange_library.answer == 42
    out = "".join(capfd.readouterr())
    for name in ("strange_library", "known_library"):
        assert f"what the bot does with {name} shows only in part: this version has no 'Client'\n" in out


def test_a_module_that_was_looked_for_or_failed_to_import_is_seen_when_it_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("sought", "late", "broken")
    seen: list[str] = []
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    after_import.install({name: Hook(lambda module: seen.append(module.__name__)) for name in names})
    with pytest.raises(ImportError):
        importlib.import_module("late")
    for name in names:
        (tmp_path / f"{name}.py").write_text("import absent_module" if name == "broken" else "")
    monkeypatch.syspath_prepend(tmp_path)
    assert importlib.util.find_spec("sought") is not None
    with pytest.raises(ImportError):
        importlib.import_module("broken")
    monkeypatch.setitem(sys.modules, "absent_module", sys)
    for name in (*names, *names):
        importlib.import_module(name)
        monkeypatch.delitem(sys.modules, name)
    assert seen == [*names]


class Threads:
    """As pyTelegramBotAPI's TeleBot: hands tasks out; they are run when a test says so."""

    def __init__(self) -> None:
        self.tasks: list[Any] = []

    def process_new_updates(self, updates: list[Any]) -> None:
        for update in updates:
            self._exec_task(self.handle, update)

    def _exec_task(self, task: Any, *args: Any) -> None:
        self.tasks.append(lambda: task(*args))

    def _handle_exception(self, exception: Exception) -> bool:
        return True

    def handle(self, update: Any) -> None:
        if update.update_id == 2:
            raise ValueError


def test_a_telebots_updates_are_handled_when_the_last_thread_is_done(recorder: Recorder, handling: Handling) -> None:
    class TeleBot(Threads):
        process_new_updates = Threads.process_new_updates
        _exec_task = Threads._exec_task
        _handle_exception = Threads._handle_exception

    seen_handlers.patch_telebot(handling, types.SimpleNamespace(TeleBot=TeleBot))
    bot = TeleBot()
    bot.process_new_updates([types.SimpleNamespace(update_id=1), types.SimpleNamespace(update_id=2)])
    bot._handle_exception(ValueError())  # of a poll
    bot.tasks[0]()
    assert (recorder.heartbeat.handled_count, recorder.heartbeat.handler_errors) == (0, 0)

    def failing() -> None:
        with pytest.raises(ValueError, match=r"^$"):
            bot.tasks[1]()

    thread = threading.Thread(target=failing)
    thread.start()
    thread.join()
    assert (recorder.heartbeat.handled_count, recorder.heartbeat.handler_errors) == (2, 1)


def test_the_words_of_a_script(tmp_path: Path) -> None:
    odd = tmp_path / "it's a bot.py"
    odd.write_text("")
    assert words_of(str(odd)) == [str(odd)]
    assert words_of("/srv/bot.py --name 'two words' \"\"") == ["/srv/bot.py", "--name", "two words", ""]
    assert words_of("-m shop --fast") == ["-m", "shop", "--fast"]
    with pytest.raises(ValueError, match="quotation"):
        words_of("/srv/absent's.py")
