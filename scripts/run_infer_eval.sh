#!/usr/bin/env bash
# Inference, then evaluation: CKPT=<checkpoint> GT_JSONL=<data file> OUTPUT_BASE_DIR=<folder> [MODE=auto DEVICE=cuda:0 LIMIT=10 …] scripts/run_infer_eval.sh
# Leaves gt_vs_pred.jsonl, summary.json and resolved_config.json in OUTPUT_BASE_DIR, and the evaluation in OUTPUT_BASE_DIR/eval.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

for name in CKPT GT_JSONL OUTPUT_BASE_DIR; do
  [ -n "${!name:-}" ] || fail "$name is not set; write: CKPT=… GT_JSONL=… OUTPUT_BASE_DIR=… scripts/run_infer_eval.sh"
done
is_on() { case "${1:-0}" in 1 | true | yes | on) return 0 ;; *) return 1 ;; esac }

infer=(--gt_jsonl "$GT_JSONL" --model_checkpoint "$CKPT" --mode "${MODE:-auto}" --out "$OUTPUT_BASE_DIR/gt_vs_pred.jsonl" --summary "$OUTPUT_BASE_DIR/summary.json")
add_infer() { if [ -n "$2" ]; then infer+=("$1" "$2"); fi; }
add_infer --pred-coord-mode "${PRED_COORD_MODE:-}"
add_infer --device "${DEVICE:-}"
add_infer --limit "${LIMIT:-}"
add_infer --temperature "${TEMP:-}"
add_infer --top_p "${TOPP:-}"
add_infer --max_new_tokens "${MAXTOK:-}"
add_infer --repetition_penalty "${REPPEN:-}"
add_infer --seed "${SEED:-}"

eval=(--pred_jsonl "$OUTPUT_BASE_DIR/gt_vs_pred.jsonl" --out_dir "$OUTPUT_BASE_DIR/eval" --metrics "${EVAL_METRICS:-both}")
add_eval() { if [ -n "$2" ]; then eval+=("$1" "$2"); fi; }
is_on "${STRICT_PARSE:-0}" && eval+=(--strict-parse)
is_on "${USE_SEGM:-1}" || eval+=(--no-segm)
is_on "${OVERLAY:-0}" && eval+=(--overlay)
add_eval --iou-thrs "${IOU_THRS:-}"
add_eval --overlay-k "${OVERLAY_K:-}"
add_eval --num-workers "${NUM_WORKERS:-}"
add_eval --label-match "${LABEL_MATCH:-}"
add_eval --semantic-model "${SEMANTIC_MODEL:-}"
add_eval --semantic-threshold "${SEMANTIC_THRESHOLD:-}"
add_eval --semantic-device "${SEMANTIC_DEVICE:-}"
add_eval --semantic-batch-size "${SEMANTIC_BATCH_SIZE:-}"
add_eval --semantic-fallback "${SEMANTIC_FALLBACK:-}"

"$python" -m coordexp infer "${infer[@]}"
"$python" -m coordexp eval "${eval[@]}"
