#!/bin/sh
# Make the virtual environment for `make demo` and `make test`, and say in build/environment where things are:
#   VENV  the environment      DEMO  the demo's --home      PYTHON  the interpreter it was made from
# Idempotent; safe after a run that was cut off (the stamp is written last). One clear line when it cannot work.
set -eu
cd "$(dirname "$0")/.."
here=$(pwd -P)

fail() { echo "make: $1" >&2; exit 1; }

# A bot of a root install runs under a user id of its own, which must reach interpreter and code. The probe drops
# to such an id for real and then executes; running it as root, or by setpriv, would prove nothing.
reaches() {
    "$1" -c '
import os, sys
if os.geteuid() == 0:
    os.setgroups([]); os.setgid(64999); os.setuid(64999)
path = sys.argv[1]
if os.path.isdir(path):
    sys.exit(not os.access(path, os.R_OK | os.X_OK))
os.execv(path, [path, "-c", "import sys; sys.exit(sys.version_info < (3, 11))"])
' "$2" 2>/dev/null
}

# MULTIBOT_PYTHON names another interpreter.
PYTHON=
for candidate in ${MULTIBOT_PYTHON:-/usr/bin/python3 "$(command -v python3 || true)"}; do
    if [ -n "$candidate" ] && reaches "$candidate" "$candidate"; then PYTHON=$candidate; break; fi
done
[ -n "$PYTHON" ] || fail "no Python 3.11 or later that every user can execute (tried /usr/bin/python3 and python3): apt-get install python3 python3-venv"
"$PYTHON" -c 'import venv, ensurepip' 2>/dev/null || fail "$PYTHON cannot make virtual environments: apt-get install python3-venv"

VENV=$here/.venv DEMO=.demo editable=-e
if [ "$(id -u)" = 0 ] && ! { reaches "$PYTHON" "$here" && reaches "$PYTHON" "$here/runner"; }; then
    VENV=/var/lib/multibot-demo/venv DEMO=/var/lib/multibot-demo/home editable=
    echo "  other users cannot enter $here: environment and demo live in /var/lib/multibot-demo" >&2
    mkdir -p -m 0755 /var/lib/multibot-demo
fi

stamp=$VENV/.complete
wanted=$( (cat setup.cfg pyproject.toml "$PYTHON"; [ -n "$editable" ] || find multibot_plugin runner hooks templates demo -type f ! -path '*/__pycache__/*' | sort | xargs cat) | sha256sum)
if [ ! -f "$stamp" ] || [ "$(cat "$stamp")" != "$wanted" ]; then
    began=$(date +%s)
    printf '  python environment .' >&2
    umask 022
    mkdir -p build
    [ -x "$VENV/bin/python" ] && "$VENV/bin/python" -m pip --version >/dev/null 2>&1 || { rm -rf "$VENV"; "$PYTHON" -m venv "$VENV"; }
    ( while sleep 1; do printf . >&2; done ) & dots=$!
    trap 'kill $dots 2>/dev/null || true' EXIT
    status=0
    "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check $editable '.[dev]' >build/pip.log 2>&1 || status=$?
    kill $dots 2>/dev/null || true
    [ $status = 0 ] || { echo >&2; tail -n 5 build/pip.log >&2; fail "pip could not install what multibot needs (all of it: build/pip.log)"; }
    echo " $(($(date +%s) - began)) s" >&2
    echo "$wanted" >"$stamp"
fi
mkdir -p build
printf 'VENV=%s\nDEMO=%s\nPYTHON=%s\n' "$VENV" "$DEMO" "$PYTHON" >build/environment
