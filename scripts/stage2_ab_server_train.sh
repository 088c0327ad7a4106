#!/usr/bin/env bash
# Stage-2 with rollout servers on this machine: bash scripts/stage2_ab_server_train.sh server_gpus=0,1,2,3,4,5 train_gpus=6,7 config=<yaml>
#   [vllm_gpu_memory_utilization=0.70] [wait_timeout=1200] [server_tp=1] [server_dp=6] [server_torch_dtype=bfloat16] [server_vllm_enforce_eager=true]
#   [training.max_steps=5 …]
# server_gpus=cpu train_gpus=cpu does the same without a GPU.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

server_gpus="" train_gpus="" config="" vllm_gpu_memory_utilization="" wait_timeout="" server_tp="" server_dp="" server_torch_dtype="" server_vllm_enforce_eager=""
read_arguments "server_gpus train_gpus config vllm_gpu_memory_utilization wait_timeout server_tp server_dp server_torch_dtype server_vllm_enforce_eager" "$@"
for name in server_gpus train_gpus config; do
  [ -n "${!name}" ] || fail "$name is missing; write: bash scripts/stage2_ab_server_train.sh server_gpus=0,1 train_gpus=2,3 config=<yaml>"
done
flags=(--server-gpus "$server_gpus" --train-gpus "$train_gpus" --config "$(find_file "$config")")
for name in vllm_gpu_memory_utilization wait_timeout server_tp server_dp server_torch_dtype; do
  [ -z "${!name}" ] || flags+=("--${name//_/-}" "${!name}")
done
case "$server_vllm_enforce_eager" in
  "") ;;
  true | True | 1) flags+=(--server-vllm-enforce-eager) ;;
  false | False | 0) flags+=(--no-server-vllm-enforce-eager) ;;
  *) fail "server_vllm_enforce_eager=$server_vllm_enforce_eager is neither true nor false" ;;
esac
exec "$python" -m coordexp launch "${flags[@]}" ${overrides[@]+"${overrides[@]}"}
