import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from multibot_runner import command, foreground, oom, outcome
from multibot_runner.outcome import Misconfigured
from multibot_runner.process import read_env_file
from multibot_runner.protocol import (
    CRASHED,
    EXIT_FINAL,
    EXIT_FINISHED,
    FINISHED,
    MISCONFIGURED,
    REJECTED,
    UNREACHABLE,
    Exit,
    Run,
)


def test_an_env_file_is_lines_of_key_and_value(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text("# comment\n\nA=1\nexport B = two words \nC=\"quoted # 'x'\"\nD='single'\nE=\nF=a=b\n")
    assert read_env_file(str(file)) == {
        "A": "1",
        "B": "two words",
        "C": "quoted # 'x'",
        "D": "single",
        "E": "",
        "F": "a=b",
    }


def test_an_env_file_that_is_wrong_is_named_with_the_line_and_without_the_value(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text("A=1\nsecret-without-equals\n")
    with pytest.raises(Misconfigured) as caught:
        read_env_file(str(file))
    assert str(caught.value) == f"env file {file}, line 2: not KEY=VALUE"
    with pytest.raises(Misconfigured, match="No such file"):
        read_env_file(str(tmp_path / "absent"))
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(Misconfigured, match="not UTF-8"):
        read_env_file(str(file))


def test_an_env_file_may_be_a_link_and_nothing_that_waits_or_is_endless(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(file := tmp_path / ".env")
    file.write_text("A=1\n")
    assert read_env_file(str(link)) == {"A": "1"}
    file.write_text("A=1\n" * 100_000)
    with pytest.raises(Misconfigured, match="larger than"):
        read_env_file(str(link))
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(Misconfigured, match="not a plain file"):
        read_env_file(str(link))


def test_no_env_file_is_no_variables() -> None:
    assert read_env_file("") == {}


def test_the_text_of_a_crash_is_the_line_that_python_prints_last() -> None:
    def text_of(source: str) -> str:
        try:
            exec(compile(source, "/srv/bot.py", "exec"))
        except BaseException as error:
            return outcome.crashed(error).text
        raise AssertionError

    assert text_of("import absent_module") == "ModuleNotFoundError: No module named 'absent_module' (/srv/bot.py:1)"
    assert text_of("def f(:") == "SyntaxError: invalid syntax (/srv/bot.py:1)"
    assert text_of("raise ValueError('one\\ntwo')") == "ValueError: one (/srv/bot.py:1)"
    assert text_of("raise KeyError('x' * 1000)").endswith("… (/srv/bot.py:1)")
    bad = text_of(f"raise RuntimeError('bad 123456:{'A' * 35}')")
    assert bad == "RuntimeError: bad 123456:<redacted> (/srv/bot.py:1)"
    one = "def fail(): raise ValueError('away')\ntry: fail()\nexcept ValueError as e: error = e\n"
    group = f"{one}raise ExceptionGroup('tasks', [ExceptionGroup('inner', [error])])"
    assert text_of(group) == "ValueError: away (/srv/bot.py:1)"
    several = f"{one}raise ExceptionGroup('tasks', [error, error])"
    assert text_of(several) == "ExceptionGroup: tasks (2 sub-exceptions) (/srv/bot.py:4)"
    assert text_of("raise MemoryError") == "out of memory: MemoryError (/srv/bot.py:1)"


def test_the_cause_follows_from_the_way_it_ended() -> None:
    assert outcome.ended(0).cause == FINISHED
    assert (outcome.ended(3).cause, outcome.ended(3).code) == (CRASHED, 3)
    assert outcome.ended(EXIT_FINAL).cause == MISCONFIGURED
    assert (outcome.rejected(401).cause, outcome.rejected(401).code) == (REJECTED, EXIT_FINAL)
    assert outcome.killed(11).text == "killed by SIGSEGV"
    assert outcome.killed(64 + 50).text == "killed by signal 114"
    assert outcome.killed(9, "probably out of memory").text == "killed by SIGKILL (probably out of memory)"
    assert outcome.ended(3, "Error: no").text == "ended by itself, exit code 3: Error: no"
    away = outcome.unreachable(outcome.ended(3))
    assert (away.cause, away.text, away.code) == (
        UNREACHABLE,
        "Telegram could not be reached: ended by itself, exit code 3",
        3,
    )
    for end in (outcome.ended(0), outcome.ended(EXIT_FINAL), outcome.killed(11)):
        assert outcome.unreachable(end) is end
    # What this code says to supervisord is for us to say.
    assert outcome.under("always", outcome.ended(EXIT_FINISHED)).code == 1


@pytest.mark.parametrize(
    ("restart", "end", "code", "died"),
    [
        ("always", outcome.ended(0), 0, True), ("always", outcome.ended(3), 3, True),
        ("on-failure", outcome.ended(0), EXIT_FINISHED, False), ("on-failure", outcome.ended(3), 3, True),
        ("never", outcome.ended(0), EXIT_FINISHED, False), ("never", outcome.ended(3), EXIT_FINAL, False),
        ("never", outcome.killed(11), EXIT_FINAL, False), ("never", outcome.stopped(0), 0, False),
        ("always", outcome.unreachable(outcome.ended(EXIT_FINISHED)), 1, True),
        ("on-failure", outcome.unreachable(outcome.ended(3)), 3, True),
        ("never", outcome.unreachable(outcome.ended(3)), EXIT_FINAL, False),
    ],
)  # fmt: skip
def test_what_an_end_means_under_the_setting_restart(restart: str, end: Exit, code: int, died: bool) -> None:
    seen = outcome.under(restart, end)
    assert (seen.code, Run(1.0, 1.0, 1, "d", exit=seen).died) == (code, died)
    assert (seen.cause, seen.signal) == (end.cause, None)
    assert seen.text == end.text or seen.text == f"{end.text}; not started again (restart = never)"


def test_what_the_kernel_counts_tells_whether_memory_was_the_reason(tmp_path: Path) -> None:
    (tmp_path / "self").mkdir()
    (tmp_path / "bots").mkdir()
    (tmp_path / "self" / "cgroup").write_text("0::/bots\n")
    group, system = tmp_path / "bots" / "memory.events", tmp_path / "vmstat"
    looks = []
    for in_group, in_all in ((0, 4), (0, 5), (1, 6)):
        group.write_text(f"low 0\noom {in_group}\noom_kill {in_group}\noom_group_kill 0\n")
        system.write_text(f"nr_free_pages 7\noom_kill {in_all}\n")
        looks.append(oom.look(tmp_path, tmp_path))
    assert oom.verdict(looks[0], looks[0]) == ""
    assert oom.verdict(looks[0], looks[1]) == "probably out of memory"
    assert oom.verdict(looks[1], looks[2]) == "out of memory: the limit of its control group"
    assert oom.verdict(oom.look(tmp_path / "absent"), looks[2]) == ""
    (tmp_path / "self" / "cgroup").write_text("4:cpu,memory:/bots\n0::/\n")
    (tmp_path / "memory" / "bots").mkdir(parents=True)
    (tmp_path / "memory" / "bots" / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 7\n")
    assert oom.look(tmp_path, tmp_path) == oom.Kills(7, 6)


def test_a_run_in_a_terminal_without_the_installations_variables_is_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("MULTIBOT_STATE", raising=False)
    assert foreground.run("--run", "shop", "0" * 16, (), lambda *_: 0) == 6
    assert capsys.readouterr().err == "multibot: MULTIBOT_STATE is not set: a bot is started by supervisord\n"


class Kernel:
    """Counters of the OOM killer that a test moves."""

    killed = 3

    def look(self) -> oom.Kills:
        return oom.Kills(self.killed, self.killed)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    made = Kernel()
    monkeypatch.setattr(oom, "look", made.look)
    return made


def test_a_kill_that_is_counted_one_look_before_it_is_seen_counts_and_an_older_one_does_not(kernel: Kernel) -> None:
    watch = oom.Watch()
    assert watch.verdict() == ""
    kernel.killed += 1
    assert [watch.verdict() for _ in range(3)] == ["out of memory: the limit of its control group"] * 2 + [""]


def test_a_command_that_is_killed_is_no_victim_of_what_memory_ended_in_its_group_long_before(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "_MEMORY_S", 0.0)
    launch = SimpleNamespace(settings=SimpleNamespace(token_var="TOKEN"), token="1:a", foreground=False)
    sayings = SimpleNamespace(environment={}, watched=lambda pause: ([], pause), read=lambda ready: None)
    wake, waker = os.pipe()
    try:
        child = command._Child(launch, wake, sayings)  # type: ignore[arg-type]
        kernel.killed += 1
        assert "out of memory" in child.exit(-9, False).text
        for _ in range(3):
            child._turn(None)
        assert "memory" not in child.exit(-9, False).text
    finally:
        os.close(wake)
        os.close(waker)


def test_importing_the_runner_changes_nothing_in_this_process() -> None:
    import signal
    import sys

    before = (sys.stdout, signal.signal, signal.getsignal(signal.SIGTERM), os.getcwd(), list(sys.meta_path))
    import multibot_runner.build
    import multibot_runner.command
    import multibot_runner.main
    import multibot_runner.script  # noqa: F401

    assert before == (sys.stdout, signal.signal, signal.getsignal(signal.SIGTERM), os.getcwd(), list(sys.meta_path))


def test_of_an_error_in_many_words_the_systems_own_reason_is_told() -> None:
    def fail(words: str) -> None:
        try:
            try:
                raise ConnectionRefusedError(111, "Connection refused")
            except OSError as error:
                raise RuntimeError("pool") from error
        except RuntimeError:
            raise ValueError(words)  # noqa: B904 - as requests does

    pool = f"{'x' * 200} [Errno 111] Connection refused"
    for words, told in (
        (pool, "ValueError: Connection refused"),
        ("y" * 200, "ValueError: yyy"),
        ("z", "ValueError: z"),
    ):
        with pytest.raises(ValueError) as caught:  # noqa: PT011
            fail(words)
        assert outcome.crashed(caught.value).text.startswith(told)
