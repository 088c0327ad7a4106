#!/usr/bin/env bash
# Pictures: PRED_JSONL=<dir>/gt_vs_pred.jsonl SAVE_DIR=<dir> ROOT_IMAGE_DIR=<folder of the images> [LIMIT=20] scripts/run_vis.sh
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

for name in PRED_JSONL SAVE_DIR ROOT_IMAGE_DIR; do
  [ -n "${!name:-}" ] || fail "$name is not set; write: PRED_JSONL=… SAVE_DIR=… ROOT_IMAGE_DIR=… scripts/run_vis.sh"
done
exec "$python" -m coordexp vis --pred_jsonl "$PRED_JSONL" --save_dir "$SAVE_DIR" --root_image_dir "$ROOT_IMAGE_DIR" --limit "${LIMIT:-20}"
