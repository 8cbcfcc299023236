import io
import re

from hypothesis import given, settings
from hypothesis import strategies as st

from multibot_runner.logs import Redactor
from multibot_runner.redact import redact

SECRET = "AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw_-9"
TOKEN = f"123456789:{SECRET}"


def through(*pieces: bytes, tokens: tuple[str, ...] = ()) -> bytes:
    redactor = Redactor(tokens)
    out = io.BytesIO()
    for piece in pieces:
        out.write(redactor.feed(piece))
    out.write(redactor.release())
    return out.getvalue()


def test_anything_that_looks_like_a_token_is_redacted() -> None:
    assert redact(f"https://api.telegram.org/bot{TOKEN}/getMe") == (
        "https://api.telegram.org/bot123456789:<redacted>/getMe"
    )
    assert redact(f"99999{TOKEN}") == "99999123456789:<redacted>"
    assert redact(f"x{TOKEN!r}, {TOKEN}") == "x'123456789:<redacted>', 123456789:<redacted>"


def test_a_url_encoded_token_is_redacted_however_often_it_was_encoded() -> None:
    for colon in ("%3A", "%3a", "%253A", "%25253A"):
        assert redact(TOKEN.replace(":", colon)) == f"123456789{colon}<redacted>"


def test_times_numbers_and_short_things_stay() -> None:
    for text in ("at 2026-11-24 10:11:12", "1234:short", "12:" + "a" * 40, "a:b", "https://x.org:8443/" + "a" * 50):
        assert redact(text) == text


def test_a_known_token_is_redacted_where_the_pattern_would_not_see_it() -> None:
    assert SECRET not in redact(f"a:{SECRET} {SECRET}", [TOKEN])
    assert redact("nothing known", ["short:x"]) == "nothing known"


def test_a_token_split_anywhere_does_not_leak() -> None:
    for text in (TOKEN, TOKEN.replace(":", "%3A"), TOKEN.replace(":", "%253a"), f"99999{TOKEN}", f" {SECRET} "):
        data = f"before {text} after".encode()
        whole = through(data, tokens=(TOKEN,))
        for cut in range(1, len(data)):
            assert through(data[:cut], data[cut:], tokens=(TOKEN,)) == whole, cut
        assert through(*[data[i : i + 1] for i in range(len(data))], tokens=(TOKEN,)) == whole
        assert SECRET.encode() not in whole


def test_a_partial_line_that_cannot_be_a_token_flows_at_once() -> None:
    redactor = Redactor([TOKEN])
    assert [redactor.feed(b".") for _ in range(3)] == [b"."] * 3
    assert redactor.feed(b"Name: ") == b"Name: "
    assert redactor.feed("fünf 50 %".encode()) == "fünf 50 %".encode()
    assert redactor.feed(b"line with 123\n") == b"line with 123\n"


def test_what_is_held_back_comes_with_the_next_piece_or_at_the_end() -> None:
    redactor = Redactor([TOKEN])
    assert redactor.feed(b"step 12") == b"step "
    assert redactor.feed(b" of 20") == b"12 of "
    assert redactor.release() == b"20"
    assert redactor.feed(b"late 12") == b"late 12"


def test_an_endless_run_after_a_number_is_not_collected() -> None:
    redactor = Redactor()
    assert len(redactor.feed(b"123456:" + b"a" * 100_000)) < 100
    assert redactor.feed(b"a" * 10) == b"a" * 10


@settings(database=None, deadline=None)
@given(
    st.lists(st.sampled_from([*TOKEN, TOKEN, TOKEN[:20], TOKEN[20:], "%3A", "\n", "ü", " "]), max_size=30), st.data()
)
def test_splitting_never_shows_more_than_the_whole_would(parts: list[str], data: st.DataObject) -> None:
    text = "".join(parts).encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=5)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    out = through(*pieces, tokens=(TOKEN,))
    assert SECRET.encode() not in out
    assert not re.search(rb"(?<!\d)\d{3,12}:[A-Za-z0-9_-]{30,64}(?![A-Za-z0-9_-])", out.replace(b"<redacted>", b"<>"))
