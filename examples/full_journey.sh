#!/usr/bin/env bash
# From a folder in YOLO's format to a calibrated detector and its report, on two CPU cores in under 25 minutes; real parts only. docs/tutorial.md explains each step.
# A step that is done is not done again; one that was interrupted goes on where it was. Settings: OUT (output/journey), QUICK=1 (a few steps; its scores say nothing).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" HF_HUB_OFFLINE=1
PATH="$PWD/.venv/bin:$PATH"
OUT="${OUT:-output/journey}"
mkdir -p "$OUT/.steps"

scenes=1200 held_out=150 stage1=() stage2=()
if [ "${QUICK:-0}" = 1 ]; then
  scenes=60 held_out=60
  stage1=(training.max_steps=4 training.warmup_steps=1 training.eval_steps=4 training.save_steps=2 custom.eval_detection.limit=8)
  stage2=(training.max_steps=4 training.warmup_steps=1 training.eval_steps=4 training.save_steps=2 custom.val_sample_limit=8)
fi

step() { # step <name> <what it is> <command…>
  local name="$1" what="$2" start=$SECONDS
  shift 2
  if [ -e "$OUT/.steps/$name" ]; then
    printf -- '-- %s: done already\n' "$what"
    return
  fi
  printf '\n== %s\n   $ %s\n' "$what" "$*"
  "$@"
  echo $((SECONDS - start)) >"$OUT/.steps/$name"
}

shapes() { # a data set in YOLO's format, as somebody might have it
  for split in train val test; do
    coordexp data make shapes -o "$OUT/drawn/$split" --name "journey-$split" --scenes "$([ "$split" = train ] && echo "$scenes" || echo "$held_out")" \
      --max-objects 8 --min-side 22 --max-side 60
    coordexp data import coco "$OUT/drawn/$split/instances_journey-$split.json" --images "$OUT/drawn/$split/images" --output "$OUT/drawn/$split.jsonl"
  done
  coordexp data export yolo train="$OUT/drawn/train.jsonl" val="$OUT/drawn/val.jsonl" test="$OUT/drawn/test.jsonl" -o "$OUT/yolo"
}

prepare() { # prepare <folder> <settings of the splits…>
  local folder="$1"
  shift
  coordexp data prepare configs/data/yolo.yaml output="$OUT/$folder" preset=rescale_16_36 filter.duplicates=0 "$@"
}

last_run() { # the newest run folder under a training's output folder
  local folders=("$1"/v*/*/)
  printf '%s' "${folders[-1]%/}"
}

resumed() { # resumed <output folder>: the setting that continues an interrupted run, if there is one
  compgen -G "$1/v*/*/checkpoint-*" >/dev/null && printf 'training.resume_from_checkpoint=true' || true
}

merge() { # merge <stage>: its adapter into its model
  coordexp model merge --adapter "$(last_run "$OUT/$1")/final-adapter" --dst "$OUT/$1-merged"
}

infer() { # infer <name> <checkpoint> <settings…>
  local name="$1" checkpoint="$2"
  shift 2
  coordexp infer --config configs/journey/infer.yaml run.output_dir="$OUT/runs" run.name="$name" infer.model_checkpoint="$checkpoint" "$@"
}

data="$OUT/data/rescale_16_36" calibration="$OUT/calibration/rescale_16_36/val.unique.coord.jsonl"
splits=(custom.train_jsonl="$data/train.unique.coord.jsonl" custom.val_jsonl="$data/val.unique.coord.jsonl")

step yolo "a data set in YOLO's format" shapes
step prepare "import, rescale, filter, coordinate tokens, validate" prepare data splits.train.instances="$OUT/yolo/data.yaml" splits.val.instances="$OUT/yolo/data.yaml"
step calibration "the same for the pictures that scores are calibrated on" prepare calibration splits.train=null splits.val.instances="$OUT/yolo/data.yaml" splits.val.split=test
step published "a Qwen3-VL without coordinate tokens, as published ones are" coordexp model tiny --trained --without-coord-tokens -o "$OUT/published"
step coord "give it the 1,000 coordinate tokens" coordexp model expand-vocab --src "$OUT/published" --dst "$OUT/coord"
step doctor "look for what silently ruins a run" coordexp doctor data "$data/train.unique.coord.jsonl" --model "$OUT/coord" --output "$OUT/doctor.html"
step stage1 "Stage-1: a LoRA and the coordinate rows" \
  coordexp train --config configs/journey/stage1.yaml model.model="$OUT/coord" training.output_dir="$OUT/stage1" "${splits[@]}" "${stage1[@]}" $(resumed "$OUT/stage1")
step merge1 "merge it" merge stage1
step stage2 "Stage-2: both channels, a vLLM server and the learner beside it" bash scripts/stage2_ab_server_train.sh server_gpus=cpu train_gpus=cpu \
  config=configs/journey/stage2.yaml model.model="$OUT/stage1-merged" training.output_dir="$OUT/stage2" "${splits[@]}" "${stage2[@]}" $(resumed "$OUT/stage2")
step merge2 "merge it" merge stage2
step infer_stage1 "detect with Stage-1" infer stage1 "$OUT/stage1-merged" infer.gt_jsonl="$data/val.unique.coord.jsonl"
step infer_calibration "detect with Stage-2 on the calibration pictures" infer calibration "$OUT/stage2-merged" infer.gt_jsonl="$calibration"
step calibrate "make probabilities of scores" coordexp calibrate --pred_jsonl "$OUT/runs/calibration/gt_vs_pred.jsonl" --out "$OUT/calibration.json"
step infer_stage2 "detect with Stage-2, calibrated" infer stage2 "$OUT/stage2-merged" infer.gt_jsonl="$data/val.unique.coord.jsonl" infer.calibration="$OUT/calibration.json"
step compare "did Stage-2 help?" coordexp eval compare "$OUT/runs/stage1" "$OUT/runs/stage2" --label-match exact --pixel-mode exact
step report "one page" coordexp report "$OUT/runs/stage2" --before "$OUT/runs/stage1" --training "$(last_run "$OUT/stage2")" -o "$OUT/report.html"
step export "predictions for COCO tools" coordexp eval export "$OUT/runs/stage2" --out_dir "$OUT/coco"

printf '\n'
python examples/journey_table.py "$OUT"
