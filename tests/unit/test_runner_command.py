"""What a program's last lines say of its end."""

from __future__ import annotations

import pytest

from multibot_runner.command import last_words

NODE = """node:internal/deps/undici/undici:12618
    Error.captureStackTrace(err, this);
          ^

TypeError: fetch failed
    at node:internal/deps/undici/undici:12618:11
    at async main (/srv/bot.js:3:3) {
  [cause]: Error: connect ECONNREFUSED 127.0.0.1:1
      at TCPConnectWrap.afterConnect [as oncomplete] (node:net:1555:16) {
    errno: -111,
    code: 'ECONNREFUSED',
    syscall: 'connect',
    address: '127.0.0.1',
    port: 1
  }
}

Node.js v18.19.0
"""


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (NODE, "Error: connect ECONNREFUSED 127.0.0.1:1"),
        ("working\nValueError: no stock left\n\n", "ValueError: no stock left"),
        ("}\n", "}"),
        ("\n", ""),
    ],
)
def test_the_telling_line_is_found(text: str, words: str) -> None:
    assert last_words(text.split("\n")) == words
