"""A script under the runner beside the same script started by ``python``: the same to see, the same end."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from runners import Place, a_place

# What a script can see of how it was started, and what depends on it: written into a file named by its environment.
PROBE = """
    import atexit, concurrent.futures, json, logging, multiprocessing, os, pickle, signal, sys, threading
    import neighbour

    class Thing:
        def __eq__(self, other):
            return type(other) is type(self)

    def double(number):
        return number * 2, __name__

    def main():
        import __main__
        def children(method):
            context = multiprocessing.get_context(method)
            with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
                same = pool.submit(type, Thing()).result() is Thing
                return *pool.submit(double, 21).result(), same
        seen = dict(
            argv=sys.argv, path=sys.path, cwd=os.getcwd(), file=__file__, package=__package__, doc=__doc__,
            spec=__spec__ and __spec__.name, loader=type(__loader__).__name__, names=sorted(globals()),
            main=__main__.Thing is Thing, pickled=pickle.loads(pickle.dumps(Thing())) == Thing(),
            module=Thing.__module__, children={method: children(method) for method in os.environ["METHODS"].split()},
            relative=open("relative.txt").read(), neighbour=neighbour.__file__,
            signals={str(n): str(signal.getsignal(n)) for n in (2, 13, 15)}, handlers=len(logging.root.handlers),
            threads=threading.active_count(), hook=sys.excepthook is sys.__excepthook__, executable=sys.executable,
            stdin=sys.stdin.read(), streams=[s.encoding for s in (sys.stdout, sys.stderr)],
            tracer=sys.gettrace(), limit=sys.getrecursionlimit(), interactive=hasattr(sys, "ps1"),
        )
        with open(os.environ["SEEN"], "w") as file:
            json.dump(seen, file)
        os.chmod(os.environ["SEEN"], 0o666)

    print("imported", __name__, flush=True)
    if __name__ == "__main__":
        main()
"""


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    with a_place() as made:
        yield made


def directly(place: Place, words: list[str], cwd: Path, **environment: str) -> tuple[int, list[str]]:
    done = subprocess.run(
        [sys.executable, *words], cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, timeout=60, check=False, env={**place.environment, **environment},
    )  # fmt: skip
    return done.returncode, done.stdout.splitlines()


def by_the_runner(place: Place, target: str, cwd: Path, **environment: str) -> tuple[int, list[str]]:
    bot = place.bot("script", target, workdir=str(cwd), env=environment)
    code = bot.run_to_end()
    return code, [line for line in bot.log.splitlines() if not line.startswith("multibot: ")]


def folder(place: Place, name: str) -> Path:
    """Return a directory with the probe in several shapes, writable for every user."""
    script = place.file(f"{name}/the bot/probe it's.py", PROBE)
    there = script.parent
    there.parent.chmod(0o777)
    (there.parent / "relative.txt").write_text("relative")
    for home in (there, there.parent / "package"):
        home.mkdir(exist_ok=True)
        (home / "neighbour.py").write_text("")
    for name in ("__main__.py", "module.py"):
        shutil.copy(script, there.parent / "package" / name)
    (there.parent / "link.py").symlink_to(script)
    return there.parent


@pytest.mark.parametrize(
    "words",
    [
        ["{0}/the bot/probe it's.py"],
        ["{0}/the bot/probe it's.py", "--name", 'two words "quoted"', "", "100%"],
        ["{0}/link.py", "one"],
        ["-m", "package", "-x", "a b"],
        ["-m", "package.module"],
        ["{0}/package", "one"],
    ],
)
def test_a_script_sees_what_it_sees_when_python_starts_it(place: Place, words: list[str]) -> None:
    top = folder(place, "probe")
    words = [word.format(top) for word in words]
    extra = {"PYTHONPATH": str(top / "package")} if words[0] == "-m" else {}
    # Python cannot spawn what is defined in a __main__.py.
    extra["METHODS"] = "fork" if words[:2] == ["-m", "package"] or words[0].endswith("/package") else "fork spawn"
    found: list[tuple[Any, ...]] = []
    for start in (directly, by_the_runner):
        seen = top / f"{start.__name__}.json"
        seen.unlink(missing_ok=True)
        given: Any = words if start is directly else shlex.join(words)
        code, lines = start(place, given, top, SEEN=str(seen), **extra)
        found.append((code, lines, json.loads(seen.read_text()) if seen.exists() else {}))
    ours, theirs = found[1], found[0]
    assert theirs[0] == 0, theirs[1]
    assert ours == theirs


ENDS = {
    "nothing": "pass",
    "none": "sys.exit()",
    "number": "sys.exit(3)",
    "negative": "sys.exit(-1)",
    "large": "sys.exit(259)",
    "text": "sys.exit('a last word')",
    "object": "sys.exit(('a', 'tuple'))",
    "error": "raise ValueError('no good')",
    "chained": "exec('try:\\n 1/0\\nexcept ZeroDivisionError as e:\\n raise KeyError(1) from e')",
    "syntax": "exec('def f(:')",
    "at once": "os._exit(7)",
    "interrupt": "raise KeyboardInterrupt",
    "signal": "os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)",
    "kill": "os.kill(os.getpid(), signal.SIGKILL)",
    "abort": "os.abort()",
    "pipe": "signal.signal(signal.SIGPIPE, signal.SIG_DFL); os.kill(os.getpid(), signal.SIGPIPE)",
    "thread": "threading.Thread(target=lambda: (time.sleep(0.2), print('thread'))).start()",
    "failed thread": "threading.Thread(target=lambda: 1 / 0).start()",
    "daemon": "threading.Thread(target=time.sleep, args=(60,), daemon=True).start(); sys.exit(4)",
    "executor": "concurrent.futures.ThreadPoolExecutor().submit(time.sleep, 0.2); sys.exit(5)",
    "child": "multiprocessing.get_context('fork').Process(target=print, args=('child',)).start()",
    "asyncio": "asyncio.run(asyncio.wait_for(asyncio.sleep(9), 0.01))",
}
PRELUDE = """\
import asyncio, atexit, concurrent.futures, multiprocessing, os, signal, sys, threading, time
sys.stdout.reconfigure(line_buffering=True)
atexit.register(print, "first registered")
atexit.register(print, "last registered")
"""


@pytest.mark.parametrize("end", ENDS)
def test_a_script_ends_as_it_ends_when_python_starts_it(place: Place, end: str) -> None:
    script = place.file(f"end in {end}.py", PRELUDE + ENDS[end] + "\n")
    ours = by_the_runner(place, shlex.quote(str(script)), script.parent)
    assert ours == directly(place, [str(script)], script.parent)


def test_signals_amid_a_scripts_output_break_nothing(place: Place) -> None:
    """Not compared: started directly Python refuses now and then what a handler prints within a print."""
    script = place.file("signals.py", """
        import signal
        signal.signal(signal.SIGALRM, lambda *_: print(end="", flush=True))
        signal.setitimer(signal.ITIMER_REAL, 1e-4, 1e-4)
        for n in range(5000): print(n)
        signal.setitimer(signal.ITIMER_REAL, 0)
    """)  # fmt: skip
    assert by_the_runner(place, str(script), script.parent) == (0, [str(n) for n in range(5000)])


def test_a_module_that_is_not_there_is_told_as_python_tells_it(place: Place) -> None:
    code, lines = by_the_runner(place, "-m absent_package", place.top)
    assert (code, lines) == directly(place, ["-m", "absent_package"], place.top)
    assert code == 1


def test_a_target_that_cannot_be_split_is_a_wrong_configuration(place: Place) -> None:
    bot = place.bot("script", "/srv/bot.py 'one")
    assert bot.run_to_end() == 78
    assert bot.exit.text == "script /srv/bot.py 'one: No closing quotation"


def test_the_declared_port_is_in_the_environment(place: Place) -> None:
    code, lines = by_the_runner(place, shlex.quote(str(place.file("port.py", "import os; print(os.getenv('PORT'))"))),
                                place.top)  # fmt: skip
    assert (code, lines) == (0, ["None"])
    for form, target in (("script", str(place.top / "bots" / "x.py")), ("command", "sh -c 'echo $PORT'")):
        Path(place.top / "bots" / "x.py").write_text("import os; print(os.environ['PORT'])")
        bot = place.bot(form, target, port=8443, env={"PORT": "1"})
        assert bot.run_to_end() == 0
        assert "8443" in bot.log.splitlines()
