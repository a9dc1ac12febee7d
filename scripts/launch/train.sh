#!/usr/bin/env bash
# The lines of the published runs: what slurm.sh, gke_job.yaml, tpu_vm.sh and ssh.sh start on every
# host. On one machine it is started by itself:
#
#   DATA=/mnt/data RUNS=/mnt/runs bash scripts/launch/train.sh 3.8b
#
# What follows the name goes to openba-train and wins over what stands here, such as MESH_SHAPE and
# ACCUMULATION for another number of devices; openba-fit finds them. DATA holds token stores and
# tokenizers, RUNS the model folders; every host must see both.
set -euo pipefail
: "${1:?name a run: 15b, 3.8b or llama_7b}" "${DATA:?name the folder of token stores}" "${RUNS:?name the folder of runs}"
run=$1
shift
cd "$(dirname "$0")/../.."

case $run in
  15b) # OpenBA-15B from nothing: UL2, 100,000 steps of 4096 examples.
    lines=(
      --gin_file=gin/models/openba_15b.gin
      --gin_file=gin/runs/native/pretrain.gin
      --gin.named_config.dtype="'bfloat16'"
      --gin.named_config.remat_policy="'full'"
      --gin.VOCABULARY="'$DATA/tokenizer.model'"
      --gin.TOKEN_STORES="['$DATA/spans']"
      --gin.ACCUMULATION=16
    )
    ;;
  3.8b) # Stage 4, cut to 3.8B: D-UL2, 65 billion tokens in steps of 1024 examples.
    lines=(
      --gin_file=gin/runs/native/recover.gin
      --gin_file=gin/objectives/d_ul2_paper.gin
      --gin.INITIAL_CHECKPOINT_PATH="'$RUNS/stage4_3_8b.pruned'"
      --gin.config_of.dtype="'bfloat16'"
      --gin.config_of.remat_policy="'minimal'"
      --gin.VOCABULARY="'$DATA/tokenizer.model'"
      --gin.TOKEN_STORES="['$DATA/spans']"
      --gin.HELD_OUT=4096
      --gin.EVAL_STEPS=2
      --gin.TRAIN_STEPS=66_700
      --gin.warmup_cosine.decay_steps=66_700
      --gin.ACCUMULATION=16
    )
    ;;
  llama_7b) # LLaMA-2 7B, cut to 3.4B: 12 billion tokens in steps of 256 rows of 4096.
    lines=(
      --gin_file=gin/runs/native/recover.gin
      --gin_file=gin/objectives/causal_lm.gin
      --gin.INITIAL_CHECKPOINT_PATH="'$RUNS/llama2_3_4b.pruned'"
      --gin.config_of.dtype="'bfloat16'"
      --gin.config_of.remat_policy="'minimal'"
      --gin.DROPOUT_RATE=0.0
      --gin.VOCABULARY="'$DATA/llama2.model'"
      --gin.TOKEN_STORES="['$DATA/llama2_rows']"
      --gin.BATCH_SIZE=256
      --gin.TRAIN_STEPS=11_450
      --gin.warmup_cosine.decay_steps=11_450
      --gin.ACCUMULATION=4
    )
    ;;
  *)
    echo "error: there is no run $run; name 15b, 3.8b or llama_7b." >&2
    exit 2
    ;;
esac
# Parameters and the state of the optimizer divided over all devices.
lines+=(--gin.MODEL_DIR="'$RUNS/$run'" --gin.MESH_SHAPE="(1, -1, 1)")
exec "${PYTHON:-python}" -m openba_jax.train "${lines[@]}" "$@"
