from __future__ import annotations

import errno
import fcntl
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from watched import NOW_AT

from multibot_plugin import journal as module
from multibot_plugin.errors import MultibotError
from multibot_plugin.journal import AuditEntry, Entry, Journal, JournalError, Wish, new_id


def entry(number: int = 1, **changes: Any) -> AuditEntry:
    usual = {"id": new_id(), "at": NOW_AT, "actor": "ada", "door": "test", "bot": "greeter", "action": f"act {number}"}
    return AuditEntry(**{**usual, **changes})


def wish(enabled: bool = False) -> Wish:
    return Wish(new_id(), NOW_AT, "ada", "supervisorctl", "greeter", enabled)


def drain(journal: Journal) -> list[Entry]:
    """Take everything that waits, as the replayer does."""
    found: list[Entry] = []
    while (batch := journal.pending()) is not None:
        assert batch.unreadable == ()
        found.extend(batch.entries)
        journal.done(batch)
    return found


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "journal")


def test_what_is_appended_comes_out_in_its_order_once(journal: Journal) -> None:
    entries = [entry(1), wish(), entry(2, bot=None, detail={"x": [1, "é", None]}), wish(True)]
    journal.append(*entries[:2])
    journal.append(*entries[2:])
    assert journal.size() > 0
    assert drain(journal) == entries
    assert drain(journal) == []
    assert journal.size() == 0


def test_nothing_waits_in_a_journal_that_was_never_written(journal: Journal) -> None:
    assert journal.pending() is None
    journal.append()
    assert journal.pending() is None
    assert journal.size() == 0


def test_a_batch_that_was_not_done_comes_again_and_new_entries_wait_behind_it(journal: Journal) -> None:
    journal.append(entry(1))
    first = journal.pending()
    journal.append(entry(2))
    again = journal.pending()
    assert first is not None
    assert again == first
    journal.done(first)
    journal.done(first)
    second = journal.pending()
    assert second is not None
    assert [e.action for e in second.entries if isinstance(e, AuditEntry)] == ["act 2"]


def test_a_name_never_comes_back_so_a_late_done_removes_nothing_new(journal: Journal) -> None:
    journal.append(entry(1))
    first = journal.pending()
    assert first is not None
    journal.done(first)
    journal.append(entry(2))
    assert journal.pending() is not None
    journal.done(first)
    assert len(drain(journal)) == 1


def test_large_journals_are_cut_into_segments_that_keep_the_order(tmp_path: Path) -> None:
    journal = Journal(tmp_path, segment=400)
    entries = [entry(n) for n in range(20)]
    for one in entries:
        journal.append(one)
    assert len(list(tmp_path.glob("0*.jsonl"))) > 5
    assert drain(journal) == entries


def test_half_a_line_of_a_dead_writer_harms_no_other(journal: Journal, tmp_path: Path) -> None:
    journal.append(entry(1))
    active = tmp_path / "journal" / "active.jsonl"
    with active.open("ab") as file:
        file.write(b'{"kind": "audit", "id": "12')
    journal.append(entry(2))
    batch = journal.pending()
    assert batch is not None
    assert [e.action for e in batch.entries if isinstance(e, AuditEntry)] == ["act 1", "act 2"]
    assert batch.unreadable == ('{"kind": "audit", "id": "12',)


def test_a_line_that_is_whole_but_for_its_end_counts(journal: Journal, tmp_path: Path) -> None:
    journal.append(entry(1))
    active = tmp_path / "journal" / "active.jsonl"
    active.write_bytes(active.read_bytes()[:-1])
    journal.append(entry(2))
    assert [e.action for e in drain(journal) if isinstance(e, AuditEntry)] == ["act 1", "act 2"]


@pytest.mark.parametrize("line", [b"3", b"[]", b'{"kind": "new"}', b'{"kind": "wish"}', b"\xff\xfe", b"{}", b"null"])
def test_lines_that_are_no_entry_are_handed_out_apart(journal: Journal, tmp_path: Path, line: bytes) -> None:
    journal.append(entry(1))
    with (tmp_path / "journal" / "active.jsonl").open("ab") as file:
        file.write(line + b"\n")
    batch = journal.pending()
    assert batch is not None
    assert (len(batch.entries), len(batch.unreadable)) == (1, 1)
    journal.reject(batch.unreadable[0], "not an entry")
    assert "not an entry" in (tmp_path / "journal" / "rejected.jsonl").read_text()


def test_keys_of_a_later_version_are_left_out(journal: Journal, tmp_path: Path) -> None:
    one = entry(1)
    journal.append(one)
    active = tmp_path / "journal" / "active.jsonl"
    active.write_text(json.dumps({**json.loads(active.read_text()), "later": 1}) + "\n")
    assert drain(journal) == [one]


def test_a_full_journal_says_so_and_takes_nothing_of_what_does_not_fit(tmp_path: Path) -> None:
    journal = Journal(tmp_path, limit=1000)
    journal.append(entry(1))
    with pytest.raises(JournalError, match="the journal is full"):
        journal.append(*(entry(n) for n in range(10)))
    assert len(drain(journal)) == 1
    journal.append(entry(2))


def test_a_file_that_is_replayed_while_its_size_is_asked_costs_no_entry(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal.append(entry(1))
    batch = journal.pending()
    assert batch is not None
    real = Path.stat

    def stat(path: Path, **more: bool) -> os.stat_result:
        if path == batch.path and path.is_file():
            journal.done(batch)  # the replayer, at the worst of moments
        return real(path, **more)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "stat", stat)
        patch.setattr(Path, "is_file", os.path.isfile)
        journal.append(entry(2))
    assert not batch.path.exists()
    assert len(drain(journal)) == 1


@pytest.mark.parametrize("written", [0, 20])
def test_a_full_disk_is_one_clear_error_and_leaves_no_half_line(
    journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: int
) -> None:
    journal.append(entry(1))
    real = os.write
    left = [written]

    def full(descriptor: int, data: bytes) -> int:
        if not left[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        done = real(descriptor, bytes(data)[: left[0]])
        left[0] = 0
        return done

    with monkeypatch.context() as patch:
        patch.setattr(module.os, "write", full)
        with pytest.raises(JournalError, match="cannot be written: No space left on device") as caught:
            journal.append(entry(2))
    assert isinstance(caught.value, MultibotError)
    journal.append(entry(3))
    assert [e.action for e in drain(journal) if isinstance(e, AuditEntry)] == ["act 1", "act 3"]


def test_a_directory_that_cannot_be_made_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(JournalError, match="the journal cannot be written: Not a directory"):
        Journal(tmp_path / "file" / "journal").append(entry())


def test_a_process_that_holds_the_lock_for_ever_does_not_hold_up_the_others(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal", patience_s=0.05)
    journal.append(entry(1))
    with (tmp_path / "journal" / "lock").open("r+b") as holder:
        fcntl.flock(holder, fcntl.LOCK_EX)
        with pytest.raises(JournalError, match="another process holds the journal's lock"):
            journal.append(entry(2))
        with pytest.raises(JournalError, match="another process holds the journal's lock"):
            journal.pending()
    journal.append(entry(3))
    assert len(drain(journal)) == 2


def test_rejected_entries_are_kept_up_to_a_size(
    journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MIB", 300)
    journal.append(entry())
    for n in range(9):
        journal.reject(entry(n), "refused")
    kept = [p for p in (tmp_path / "journal").glob("rejected.*")]
    assert len(kept) == 2
    assert sum(p.stat().st_size for p in kept) < 1500


def test_the_journal_is_for_its_owner_alone(journal: Journal, tmp_path: Path) -> None:
    journal.append(entry())
    assert (tmp_path / "journal").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "journal" / "active.jsonl").stat().st_mode & 0o777 == 0o600


@given(text=st.text(), number=st.floats(allow_nan=False), flag=st.booleans())
def test_any_words_survive(tmp_path_factory: pytest.TempPathFactory, text: str, number: float, flag: bool) -> None:
    journal = Journal(tmp_path_factory.mktemp("journal"))
    made = [entry(actor=text, detail={text: number}), Wish(new_id(), 0.0, text, text, text, flag)]
    journal.append(*made)
    assert drain(journal) == made


@pytest.mark.parametrize(
    "wrong",
    [{"at": "x"}, {"at": True}, {"detail": [1]}, {"actor": 5}, {"bot": {}}, {"id": None}, {"kind": "x"}, {"kind": []}],
)
def test_a_line_with_a_wrong_type_is_no_entry(journal: Journal, tmp_path: Path, wrong: dict[str, Any]) -> None:
    journal.append(entry())
    path = tmp_path / "journal" / "active.jsonl"
    line = json.loads(path.read_text())
    with path.open("a") as file:
        file.write(json.dumps(line | wrong) + "\n" + "[" * 100_000 + "\n[1]\n")
    assert journal.wishes() == {}
    batch = journal.pending()
    assert batch is not None
    assert (len(batch.entries), len(batch.unreadable)) == (1, 3)


def test_an_entry_as_deep_as_it_can_be_is_set_aside(journal: Journal, tmp_path: Path) -> None:
    deep: dict[str, Any] = {}
    for _ in range(5000):
        deep = {"a": deep}
    bad = entry(detail=deep)
    journal.append(entry())
    journal.reject(bad, "too deep")
    assert bad.id in (tmp_path / "journal" / "rejected.jsonl").read_text()
