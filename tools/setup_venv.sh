#!/usr/bin/env bash
# Create the virtual environment and install the package with everything that the demo and the tests need, at the pinned versions.
set -euo pipefail
python="$1"
venv="$2"
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
  echo "error: $python is $("$python" --version 2>&1); CoordExp needs Python 3.11 or newer: make PYTHON=python3.11 …" >&2
  exit 2
fi
[ -x "$venv/bin/python" ] || { echo "Creating $venv with $("$python" --version)."; "$python" -m venv "$venv"; }
echo "Installing CoordExp and its pinned dependencies into $venv (a few minutes the first time)."
start=$SECONDS
log="$venv/install.log"
if ! "$venv/bin/python" -m pip install --disable-pip-version-check --progress-bar off -c constraints.txt -e '.[dev]' >"$log" 2>&1; then
  tail -n 20 "$log" >&2
  echo "error: the installation failed; the whole log is in $log" >&2
  exit 1
fi
echo "Installed in $((SECONDS - start)) s."
