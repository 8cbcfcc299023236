"""An echo bot of the standard library; it needs nothing of ours and nothing installed."""

import json
import os
import time
import urllib.request


def call(method, **parameters):
    request = urllib.request.Request(
        f"{os.environ['BOT_API_URL']}/bot{os.environ['BOT_TOKEN']}/{method}",
        data=json.dumps(parameters).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)["result"]


offset = 0
while True:
    try:
        for update in call("getUpdates", offset=offset, timeout=5):
            offset = update["update_id"] + 1
            message = update["message"]
            if message["text"] == "leak":
                print("my token:", os.environ["BOT_TOKEN"], flush=True)
            call("sendMessage", chat_id=message["chat"]["id"], text=message["text"])
    except OSError as error:
        print(type(error).__name__, flush=True)
        time.sleep(1)
