"""``python -m multibot_plugin.sandbox``: the sandbox as a process of its own."""

from __future__ import annotations

import argparse
import sys

from multibot_plugin.errors import MultibotError
from multibot_plugin.sandbox.process import Options, run


def main() -> int:
    parser = argparse.ArgumentParser(prog="multibot_plugin.sandbox", description="A local Telegram Bot API server.")
    parser.add_argument("--host", default="127.0.0.1", help="loopback address (default 127.0.0.1)")
    parser.add_argument("--port", type=int, default=0, help="port (default: the one in the record, else a free one)")
    parser.add_argument("--record", help="file to write {url, pid} into")
    parser.add_argument("--strict", action="store_true", help="refuse tokens that were not registered")
    parser.add_argument("--real-pace", action="store_true", help="hold repeated polls back as Telegram does")
    parser.add_argument("--user", help="as root: the account to run as")
    parser.add_argument("--lifeline", action="store_true", help="end when standard input ends")
    options = parser.parse_args()
    try:
        run(Options(**vars(options)))
    except MultibotError as error:
        print(f"multibot: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
