from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from watched import TOKEN

from multibot_plugin.alerts.format import LONGEST, changed, cut, duration, one_line, opened, resolved, signed
from multibot_plugin.health.states import Level

DEAF = "deaf: no successful getUpdates for 47 s"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            opened("greeter", Level.CRITICAL, DEAF, "Restarting it (1 of 3 this hour)."),
            "✖ greeter is deaf: no successful getUpdates for 47 s. Restarting it (1 of 3 this hour).",
        ),
        (opened("shop", Level.CRITICAL, "quarantined: token rejected", ""), "✖ shop is quarantined: token rejected."),
        (opened("dies", Level.WARNING, "died 3 times", ""), "▲ dies: died 3 times."),
        (opened("fat", Level.WARNING, "near its memory limit: 8 of 9", ""), "▲ fat is near its memory limit: 8 of 9."),
        (opened("x", Level.WARNING, "what?", ""), "▲ x: what?"),
        (opened("", Level.WARNING, "plugin x is disabled: no", ""), "▲ multibot: plugin x is disabled: no."),
        (changed("greeter", Level.CRITICAL, DEAF, "Done."), f"✖ greeter is still {DEAF}. Done."),
        (changed("dies", Level.CRITICAL, "died again", ""), "✖ dies: died again."),
        (resolved("greeter", "deaf", "", 52.4), "● greeter is well again after 52 s (deaf)."),
        (resolved("greeter", "deaf", "was stopped", 600), "○ greeter was stopped (deaf for 10 min)."),
        (resolved("", "journal", "", 1), "● multibot is well again after 1 s (journal)."),
    ],
)
def test_messages_read_as_sentences(text: str, expected: str) -> None:
    assert text == expected


def test_the_last_line_says_where_and_since_when() -> None:
    first, last = signed("✖ x.", "host-1", 0.0).split("\n")
    assert first == "✖ x."
    assert last.startswith("host-1 · since ")


@given(st.text(), st.text())
def test_a_message_is_never_longer_than_a_channel_takes(text: str, host: str) -> None:
    message = signed(opened("b", Level.WARNING, one_line(text * 50), ""), host, 0.0)
    assert len(message.encode("utf-16-le")) // 2 <= LONGEST
    assert message.count("\n") == 1


@given(st.text(alphabet="a🤖é", max_size=60), st.integers(1, 50))
def test_a_cut_keeps_the_beginning_and_whole_characters(text: str, longest: int) -> None:
    short = cut(text, longest)
    assert len(short.encode("utf-16-le")) // 2 <= longest
    assert short == text or (short.endswith("…") and text.startswith(short[:-1]))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0 s"),
        (0.4, "0 s"),
        (47, "47 s"),
        (119.4, "119 s"),
        (120, "2 min"),
        (7199, "120 min"),
        (7200, "2 h"),
        (172800, "2 days"),
    ],
)
def test_a_span_is_told_in_one_unit(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    "text",
    [
        TOKEN,
        f"https://x/bot{TOKEN}/getMe",
        f"'{TOKEN}'",
        TOKEN.replace(":", "%3A"),
        TOKEN.replace(":", "%3a"),
        f"a\n{TOKEN}\n",
    ],
)
def test_no_token_survives(text: str) -> None:
    assert "AAsecret" not in one_line(text)
    assert re.search("123456789(:|%3[Aa])<redacted>", one_line(text))


@given(st.text())
def test_one_line_is_one_line_without_control_characters(text: str) -> None:
    line = one_line(text)
    assert line.splitlines() in ([line], [])
    assert not any(ord(c) < 32 or 127 <= ord(c) < 160 for c in line)
