"""Where an installation's runtime directory is, and that the record of it is never half written."""

from __future__ import annotations

from pathlib import Path

import pytest

from multibot_plugin.home import find_home, make_runtime


def test_the_runtime_directory_is_recorded_and_obeyed(tmp_path: Path) -> None:
    home = find_home(str(tmp_path))
    make_runtime(home)
    record = home.state / "runtime"
    assert record.read_text() == f"{home.run}\n"
    assert record.stat().st_mode & 0o777 == 0o644
    record.write_text("/elsewhere\n")
    assert find_home(str(tmp_path)).run == Path("/elsewhere")


@pytest.mark.parametrize("content", [b"", b"\n", b"run\n", b"\xff\xfe"])
def test_a_record_that_holds_no_path_is_none(tmp_path: Path, content: bytes) -> None:
    home = find_home(str(tmp_path))
    home.state.mkdir()
    (home.state / "runtime").write_bytes(content)
    assert find_home(str(tmp_path)).run == home.run == tmp_path / "run"


@pytest.mark.parametrize(("given", "typed"), [(None, ""), ("same", ""), ("other", "--home other")])
def test_a_home_that_is_exported_is_not_typed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str | None, typed: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MULTIBOT_HOME", str(tmp_path / "same"))
    assert find_home(given).option == typed
    monkeypatch.delenv("MULTIBOT_HOME")
    assert find_home("same").command("list") == "multibot --home same list"


def test_an_interrupted_init_leaves_the_record_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = find_home(str(tmp_path))
    make_runtime(home)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.rename", killed)
    with pytest.raises(KeyboardInterrupt):
        make_runtime(home)
    assert (home.state / "runtime").read_text() == f"{home.run}\n"
