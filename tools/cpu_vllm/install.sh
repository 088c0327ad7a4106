#!/usr/bin/env bash
# Create the environment in which vLLM serves on a CPU: vLLM, its pins, this package, and what it needs beside them. About 0.6 GB to fetch, 2.9 GB on disk.
set -euo pipefail
python="$1"
venv="$2"
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
source="$(cd "$here/../../src" && pwd)"
log="$venv/install.log"

[ -x "$venv/bin/python" ] || { echo "Creating $venv with $("$python" --version)."; "$python" -m venv "$venv"; }
echo "Installing vLLM for CPUs into $venv (some minutes the first time)."
start=$SECONDS
install() { "$venv/bin/python" -m pip install --disable-pip-version-check --progress-bar off -r "$here/requirements.txt" -c "$here/constraints.txt" "$@" >>"$log" 2>&1; }
: >"$log"
if ! install; then
  tail -n 20 "$log" >&2
  echo "error: the installation failed, the whole log is in $log; if torch +cpu was not found, set PIP_EXTRA_INDEX_URL to PyTorch's index for CPUs" >&2
  exit 1
fi
# builds for CUDA that vLLM would import, and that a CPU torch cannot load
"$venv/bin/python" -m pip uninstall --disable-pip-version-check -q -y torchaudio torchcodec triton >>"$log" 2>&1
packages="$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
cp "$here/coordexp_torchvision_schemas.py" "$packages/"
echo "import coordexp_torchvision_schemas" >"$packages/coordexp_torchvision_schemas.pth"
# the worker extension, and runs with the engine in their own process, import the package from here
echo "$source" >"$packages/coordexp.pth"
echo "Installed in $((SECONDS - start)) s."
