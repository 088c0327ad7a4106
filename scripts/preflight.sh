#!/usr/bin/env bash
# The gate before a change of the pipeline: the critical modules compile, and its regression test is collected and passes. Under a minute.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
cd "$repo"
test_file=tests/test_unified_infer_pipeline.py
critical=(src/coordexp/types src/coordexp/config src/coordexp/geometry src/coordexp/codec src/coordexp/generation src/coordexp/pipeline src/coordexp/evaluation src/coordexp/recipes src/coordexp/cli scripts)

"$python" -m compileall -q "${critical[@]}" || fail "a critical module does not compile; the lines above say which"
[ -f "$test_file" ] || fail "$test_file is missing; restore it: it is the gate's regression test"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" HF_HUB_OFFLINE="${HF_HUB_OFFLINE:-1}"
log="$(mktemp)"
trap 'rm -f "$log"' EXIT
code=0
timeout 300 "$python" -m pytest -q -p no:cacheprovider "$test_file" >"$log" 2>&1 || code=$?
case "$code" in
  0) ;;
  5) fail "no test was collected from $test_file" ;;
  124) fail "$test_file did not end within 300 s" ;;
  *)
    tail -n 40 "$log" >&2
    fail "$test_file does not pass; its output stands above"
    ;;
esac
tail -n 1 "$log"
echo "preflight passed"
