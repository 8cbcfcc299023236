"""A bot of the standard library alone, run as a command: any program in any language can be one.

    multibot bot create dice --command "/usr/bin/python3 /path/to/dice.py" --token-stdin

It finds its token in BOT_TOKEN and the server in BOT_API_URL.
"""

from __future__ import annotations

import json
import os
import random
import time
import urllib.error
import urllib.request
from typing import Any

POLL_S = 20


def call(method: str, **parameters: Any) -> Any:
    server = os.environ.get("BOT_API_URL", "https://api.telegram.org")
    request = urllib.request.Request(
        f"{server}/bot{os.environ['BOT_TOKEN']}/{method}",
        data=json.dumps(parameters).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=POLL_S + 10) as answer:
        return json.load(answer)["result"]


def handle(update: dict[str, Any]) -> None:
    message = update.get("message", {})
    if "text" not in message:
        return
    roll = random.randint(1, 6)
    text = str(roll) if "roll" in message["text"].lower() else "Say: roll"
    call("sendMessage", chat_id=message["chat"]["id"], text=text)


def main() -> None:
    offset = 0
    pause = 1.0
    while True:
        try:
            updates = call("getUpdates", offset=offset, timeout=POLL_S)
        except (OSError, ValueError) as error:
            if isinstance(error, urllib.error.HTTPError) and error.code == 401:
                raise SystemExit("Telegram rejects the token") from None
            print(f"getUpdates: {type(error).__name__}, next try in {pause:.0f} s", flush=True)
            time.sleep(pause)
            pause = min(pause * 2, 30.0)
            continue
        pause = 1.0
        for update in updates:
            offset = update["update_id"] + 1
            handle(update)


if __name__ == "__main__":
    main()
