"""The registry of user ids that the installations of a host share."""

from __future__ import annotations

from pathlib import Path

from multibot_plugin.bots.uids import claim, foreign, owner_of_uid


def test_a_user_id_belongs_to_the_first_installation_until_that_is_gone(tmp_path: Path) -> None:
    registry, one, two = tmp_path / "uids", tmp_path / "one" / "state", tmp_path / "two" / "state"
    for state in (one, two):
        state.mkdir(parents=True)
    assert claim(70_000, one, registry)
    assert claim(70_000, one, registry)
    assert not claim(70_000, two, registry)
    assert owner_of_uid(70_000, registry) == one
    assert foreign([70_000, 70_001], two, registry) == {70_000: one}
    assert foreign([70_000, 70_001], one, registry) == {}
    one.rmdir()
    assert owner_of_uid(70_000, registry) is None
    assert claim(70_000, two, registry)
    assert registry.stat().st_mode & 0o777 == 0o755


def test_an_installation_is_the_same_however_its_path_is_spelt(tmp_path: Path) -> None:
    registry, state, link = tmp_path / "uids", tmp_path / "one" / "state", tmp_path / "link"
    state.mkdir(parents=True)
    link.symlink_to(tmp_path / "one")
    for spelt in (link / "state", tmp_path / "one" / ".." / "one" / "state", state):
        assert claim(70_000, spelt, registry)
        assert foreign([70_000], spelt, registry) == {}
    assert owner_of_uid(70_000, registry) == state
