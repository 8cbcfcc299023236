"""Tokens stay out of what is written or shown: the one rule for what looks like a token. Pure."""

from __future__ import annotations

import re
from typing import Iterable, Tuple

# A token: the bot's number, a colon (perhaps URL-encoded, perhaps more than once), at least 30 characters.
COLON = r":|%(?:25)*3[Aa]"
PATTERN = rf"(\d{{3,12}})({COLON})[A-Za-z0-9_-]{{30,}}"
_TEXT = re.compile(PATTERN)
_SHORTEST_SECRET = 20


def secrets_of(tokens: Iterable[str]) -> Tuple[str, ...]:
    """Return what must not be seen of each token: all behind its colon, in whatever form the colon is written."""
    return tuple(s for s in (t.partition(":")[2] or t for t in tokens) if len(s) >= _SHORTEST_SECRET)


def redact(text: str, tokens: Iterable[str] = ()) -> str:
    """Return ``text`` with ``<redacted>`` for all that looks like a token and for the secret part of ``tokens``."""
    text = _TEXT.sub(r"\1\2<redacted>", text)
    for secret in secrets_of(tokens):
        text = text.replace(secret, "<redacted>")
    return text
