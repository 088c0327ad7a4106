#!/usr/bin/env bash
# Train: bash scripts/train.sh config=<yaml> [gpus=0,1 | gpus=cpu] [training.max_steps=5 …]
# One process for one GPU or the CPU; torchrun with one process for each GPU when there are several.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

config="" gpus=""
read_arguments "config gpus" "$@"
[ -n "$config" ] || fail "config is missing; write: bash scripts/train.sh config=<yaml> gpus=0,1"
config="$(find_file "$config")"

if [ "$gpus" = cpu ]; then
  export CUDA_VISIBLE_DEVICES=""
  exec "$python" -m coordexp train --config "$config" training.use_cpu=true ${overrides[@]+"${overrides[@]}"}
fi
if [ -n "$gpus" ]; then
  [[ "$gpus" =~ ^[0-9]+(,[0-9]+)*$ ]] || fail "gpus=$gpus is not a list of numbers; write gpus=0,1 or gpus=cpu"
  export CUDA_VISIBLE_DEVICES="$gpus"
fi
commas="${gpus//[^,]/}"
count=$((${#commas} + 1))
if [ "$count" -gt 1 ]; then
  exec "$python" -m torch.distributed.run --standalone --nproc_per_node "$count" --module coordexp train --config "$config" ${overrides[@]+"${overrides[@]}"}
fi
exec "$python" -m coordexp train --config "$config" ${overrides[@]+"${overrides[@]}"}
