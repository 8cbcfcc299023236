"""What stands in a bot's log: the runner alone, in every form of log_format, and a flood."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from runners import Bot, Place, a_place, wait_for

STAMP = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} "
NOISY = """
    import os, subprocess, sys
    print("out", flush=True)
    print("half", end="", flush=True)
    print("err", file=sys.stderr)
    print(os.environ["BOT_TOKEN"])
    sys.stdout.buffer.write(b"raw \\xff\\n")
    sys.stdout.flush()
"""


@pytest.fixture(scope="module")
def shared() -> Iterator[Place]:
    with a_place() as made:
        yield made


@pytest.fixture
def place(shared: Place) -> Place:
    return shared


def program(place: Place, source: str, **wish: Any) -> Bot:
    return place.bot("command", f"{sys.executable} {place.file('program.py', source)}", **wish)


def bare(line: str) -> str:
    return re.sub(f"^{STAMP}", "", line)


def objects(bot: Bot) -> list[dict[str, str]]:
    return [json.loads(line) for line in bot.log.splitlines()]


def test_every_line_of_a_script_is_stamped_its_end_too(place: Place) -> None:
    bot = place.script(NOISY + "    raise SystemExit('no more')", log_format="stamped", restart="never")
    bot.run_to_end()
    lines = bot.log_file.read_bytes().decode("utf-8", "replace").splitlines()
    number = bot.token.partition(":")[0]
    assert all(re.match(STAMP, line) for line in lines)
    assert list(map(bare, lines))[:6] == ["out", "half", "err", f"{number}:<redacted>", "raw \ufffd", "no more"]
    assert bare(lines[6]).startswith("multibot: ")


@pytest.mark.parametrize("form", ["script", "command"])
def test_json_tells_the_stream(place: Place, form: str) -> None:
    make = place.script if form == "script" else lambda source, **wish: program(place, source, **wish)
    bot = make(NOISY, log_format="json")
    bot.run_to_end()
    said = {(o["stream"], o["line"]) for o in objects(bot) if not o["line"].startswith("multibot: ")}
    redacted = f"{bot.token.partition(':')[0]}:<redacted>"
    assert said == {("stdout", "out"), ("stderr", "err"), ("stdout", f"half{redacted}"), ("stdout", "raw \\xff")}
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d", o["at"]) for o in objects(bot))


def test_what_a_command_leaves_unfinished_comes_before_the_word_of_its_end(place: Place) -> None:
    bot = program(place, "import os; os.write(1, b'step 12'); os.write(2, b'20'); raise SystemExit(3)",
                  log_format="stamped")  # fmt: skip
    bot.run_to_end()
    assert [bare(line) for line in bot.log.splitlines()[:2]] == ["step 12", "20"]
    assert "multibot: " in bot.log.splitlines()[2]


def test_what_cannot_start_says_when(place: Place) -> None:
    bot = place.script("", log_format="stamped")
    bot.paths.token(bot.digest).unlink()
    bot.run_to_end()
    assert re.match(f"{STAMP}multibot: cannot start: ", bot.log)


def test_a_forked_child_writes_lines_of_its_own(place: Place) -> None:
    bot = place.script(
        """
        import os, sys
        print("held 20", end="", flush=True)
        if os.fork() == 0:
            print("\\nchild")
            os._exit(0)
        os.wait()
        print("26 parent")
        """,
        log_format="stamped",
    )
    bot.run_to_end()
    assert bot.log.count("held") == 1
    assert [bare(line) for line in bot.log.splitlines()][1:3] == ["child", "2026 parent"]


def test_what_is_held_is_written_before_a_sudden_end_and_only_by_who_wrote_it(place: Place) -> None:
    source = """
        import os
        print("2026", end="", flush=True)
        if os.fork() == 0:
            os._exit(0)
        os.wait()
        os._exit(0)
    """
    for form in ("stamped", "json"):
        bot = place.script(source, log_format=form)
        bot.run_to_end()
        assert bot.log.count("2026") == 1 + len(re.findall("(?m)^(?:{.at.: .)?2026-", bot.log))


def test_lines_of_many_threads_stay_whole(place: Place) -> None:
    bot = place.script(
        """
        import sys, threading
        def write(name):
            for n in range(300):
                sys.stdout.write(f"{name} {n} {'x' * 50}\\n")
                sys.stderr.write(f"{name} {n} {'y' * 50}\\n")
        threads = [threading.Thread(target=write, args=(name,)) for name in "abcd"]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        """,
        log_format="stamped",
    )
    bot.run_to_end()
    lines = [bare(line) for line in bot.log.splitlines()]
    assert sorted(lines[:2400]) == sorted(f"{t} {n} {c * 50}" for t in "abcd" for n in range(300) for c in "xy")


@pytest.mark.parametrize("form", ["script", "command"])
def test_a_flood_does_not_fill_the_log_and_the_last_words_are_seen(place: Place, form: str) -> None:
    flood = """
        import sys, time
        for n in range(40_000):
            print("x" * 99, file=sys.stderr)
        time.sleep(1.5)
        print("last words")
    """
    make = place.script if form == "script" else lambda source, **wish: program(place, source, **wish)
    bot = make(flood, log_format="stamped", log_rate=4096, restart="never")
    bot.run_to_end()
    assert bot.log_file.stat().st_size < 40_000 * 100 / 4
    lines = [bare(line) for line in bot.log.splitlines()]
    assert "multibot: more is written than log_rate 4KB/s: lines are left out from here on" in lines
    told = re.findall(
        r"multibot: ([\d,]+) lines? \([\d.]+ \w+\) not logged in \d+ s: more than log_rate 4KB/s\n", bot.log
    )
    assert sum(int(number.replace(",", "")) for number in told) + lines.count("x" * 99) == 40_000
    assert "last words" in lines


LOGGERS = """
    import logging, sys
    from multibot_runner import setup_logger
    shop = setup_logger("shop", level="DEBUG")
    assert setup_logger("shop", "DEBUG") is shop
    shop.debug("three\\norders")
    logging.getLogger("shop.db").info("connected")
    logging.getLogger("httpx").info("a url")
    logging.getLogger("other").warning("not ours")
"""
WRITTEN = ["DEBUG shop: three", "orders", "INFO shop.db: connected"]


@pytest.fixture(scope="module")
def own_python(shared: Place) -> Path:
    base = shutil.which("python3", path="/usr/local/bin:/usr/bin:/bin")
    subprocess.run([str(base), "-m", "venv", "--without-pip", str(shared.top / "venv")], check=True, timeout=120)
    return shared.top / "venv" / "bin" / "python"


@pytest.mark.parametrize("foreign", [False, True])
def test_an_authors_logger_writes_one_time_before_each_line(place: Place, foreign: bool, own_python: Path) -> None:
    python = str(own_python) if foreign else ""
    bot = place.script(LOGGERS, log_format="stamped", python=python)
    bot.run_to_end()
    lines = bot.log.splitlines()
    assert all(len(re.findall(STAMP, line)) == 1 for line in lines)
    assert [bare(line) for line in lines[:4]] == [*WRITTEN, "not ours"]


def test_an_authors_logger_leaves_the_time_to_the_object(place: Place) -> None:
    bot = place.script(LOGGERS, log_format="json")
    bot.run_to_end()
    assert [o["line"] for o in objects(bot)][:4] == [*WRITTEN, "not ours"]
    plain = place.script(LOGGERS, log_format="plain")
    plain.run_to_end()
    assert re.fullmatch(f"{STAMP}DEBUG shop: three", plain.log.splitlines()[0])


def test_a_build_bots_own_logger_is_such_a_one(place: Place) -> None:
    source = """
        def build(builder, bot):
            bot.logger.info("building")
            raise SystemExit(4)
    """
    bot = place.bot("build", f"{place.file('a_bot.py', source)}:build", log_format="stamped")
    bot.run_to_end()
    assert re.fullmatch(f"{STAMP}INFO {bot.id}: building", bot.log.splitlines()[0])


def test_nothing_is_imported_for_those_who_do_not_ask(place: Place) -> None:
    bot = place.script("import sys; print('logging' in sys.modules, 'multibot_runner.logger' in sys.modules)")
    bot.run_to_end()
    assert bot.log.splitlines()[0] == "False False"


def test_an_endless_line_and_a_huge_one_are_passed_on(place: Place) -> None:
    source = "import sys\nfor n in range(3): sys.stdout.write('y' * 1_000_000)\nprint()\nprint('end')"
    bot = place.script(source, log_format="stamped")
    bot.run_to_end()
    wait_for(lambda: "end" in bot.log, "the end")
    first, second, *_ = map(bare, bot.log.splitlines())
    assert (first, second) == ("y" * 3_000_000, "end")


@pytest.mark.parametrize("foreign", [False, True])
def test_in_a_terminal_everything_is_shown_as_it_was_written(place: Place, foreign: bool, own_python: Path) -> None:
    python = str(own_python) if foreign else ""
    source = "import sys\nprint('err', file=sys.stderr)\nfor _ in range(2000): print('x' * 99)"
    bot = place.script(source, log_format="json", log_rate=1024, python=python)
    words = [sys.executable, "-P", "-m", "multibot_runner", "--run", bot.id, bot.digest]
    done = subprocess.run(words, env=place.environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == ("x" * 99 + "\n") * 2000
    assert done.stderr.startswith("err\n")
