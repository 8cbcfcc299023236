"""The commands of the README, typed one after the other into a shell in a fresh copy of the clone."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from system import BOTS, leave_nothing, new_token

from multibot_plugin.sandbox.process import child

ROOT = Path(__file__).resolve().parents[2]


def commands(page: Path) -> str:
    return "\n".join(re.findall(r"^```sh\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE))


def test_the_readmes_commands_do_what_it_says() -> None:
    directory = Path(tempfile.mkdtemp(prefix="mbr-", dir="/tmp"))
    directory.chmod(0o755)
    try:
        clone = directory / "clone"
        shutil.copytree(
            ROOT, clone, ignore=shutil.ignore_patterns(".git", ".venv", ".demo", "build", "*.egg-info", ".m*")
        )
        shutil.copy(BOTS / "script_echo.py", clone / "mybot.py")
        with child() as sandbox:
            token = new_token()
            (clone / "token.txt").write_text(token)
            (clone / "alerts-token.txt").write_text(new_token())
            sandbox.add_chat(123456789)  # where the operator has written /start to the bot of the alerts
            environment = {k: v for k, v in os.environ.items() if not k.startswith(("MULTIBOT_", "SUPERVISOR_"))}
            environment["MULTIBOT_BOT_API_URL"] = sandbox.url  # the only thing that differs from a person's shell
            script = f"set -eu\n{commands(ROOT / 'README.md')}".replace(
                "multibot list\n",
                'until multibot list --json | grep -q \'"health": "healthy"\'; do sleep 0.2; done\nmultibot list\n',
            )
            done = subprocess.run(["bash", "-c", script], cwd=clone, env=environment, capture_output=True, text=True)
            assert done.returncode == 0, done.stdout + done.stderr
            assert sandbox.counters(token).polls > 0
            assert sandbox.counters(token).polls_open == 0
            assert sandbox.counters(token).conflicts == 0
            assert sandbox.counters(token).most_polls_open == 1
        assert ". .venv/bin/activate\n" in done.stdout
        assert "Hello Ada!" in done.stdout
        assert re.search(r"^mybot +running", done.stdout, re.MULTILINE), done.stdout
    finally:
        leave_nothing(directory)
