#!/usr/bin/env bash
# The test command: lint, import rules, types, generated docs, then every test, in two processes, with the coverage of the torch-free core.
# Arguments go to pytest; `-n 0` runs all in one process.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bin=.venv/bin
failed=()

step() { # step <name> <command…>: run it, show its output only when it fails
  local name="$1" start=$SECONDS log
  shift
  log="$(mktemp)"
  if "$@" >"$log" 2>&1; then
    echo "ok      $name ($((SECONDS - start)) s)"
  else
    cat "$log"
    echo "FAILED  $name"
    failed+=("$name")
  fi
  rm -f "$log"
}

finished() { # finished <process> <log>: wait for a process of this shell, say what it said
  wait "$1"
  local code=$?
  cat "$2"
  return $code
}

step "lint" $bin/ruff check .
step "format" $bin/ruff format --check .
step "import rules" $bin/lint-imports
step "security rules" $bin/bandit --quiet --configfile pyproject.toml --recursive src benchmarks tools examples
step "generated docs are current" $bin/python tools/generate_docs.py --check

types_log="$(mktemp)" # the types are checked by the second core, while the tests begin
set -m # in a process group of its own, which ends with this script
$bin/pyright >"$types_log" 2>&1 &
types=$!
set +m
trap 'kill -- "-$types" 2>/dev/null; rm -f "$types_log"' EXIT

export OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1
rm -f .coverage .coverage.*
if ! $bin/python -m pytest -n 2 --dist loadfile --cov --cov-report= "$@"; then
  failed+=("tests")
fi
step "types (beside the tests)" finished "$types" "$types_log"
core="src/coordexp/types/*,src/coordexp/config/*,src/coordexp/geometry/*,src/coordexp/metrics/*,src/coordexp/codec/*,src/coordexp/targets/*,src/coordexp/evaluation/*,src/coordexp/viz/*,src/coordexp/data/*,src/coordexp/batching/plan.py,src/coordexp/batching/segments.py"
if [ "$#" -eq 0 ]; then
  echo "Coverage of the torch-free core (at least 90 %):"
  $bin/coverage report --include="$core" --fail-under=90 | tail -n 25 || failed+=("coverage")
fi

if [ "${NO_BROWSER:-0}" = 1 ]; then
  echo "NO_BROWSER=1: not run: the tests marked 'browser' (the HTML report in Chromium)."
fi
if [ "${#failed[@]}" -gt 0 ]; then
  printf 'FAILED: %s\n' "${failed[*]}"
  exit 1
fi
echo "All checks passed."
