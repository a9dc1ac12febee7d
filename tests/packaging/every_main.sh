#!/usr/bin/env bash
# Runs every installed main on a tiny model, in the folder where it is started.
#
#   bash every_main.sh FACTS    FACTS: a folder that examples/facts wrote
#
# The mains are those first on PATH; the gin files are the ones that they bring.
set -euo pipefail
FACTS="$1"

step() {
  printf '%s\n' "${*:1:2}"
  "$@" >log 2>&1 || { cat log >&2; exit 1; }
}

step openba
step openba-sizes
step openba-fit --model=tiny --chip=v5e --chips=1 --batch=8 --encoder_length=16 --decoder_length=8 \
  --steps=evaluate
step openba-prepare vocabulary --input="$FACTS/corpus.jsonl" --size=900 --character_coverage=1 \
  --output=tokenizer.model
step openba-prepare tokens --input="$FACTS/corpus.jsonl" --group_size=28 \
  --vocabulary=tokenizer.model --output=spans
TRAINING=(
  --gin.TOKEN_STORES="['spans']" --gin.VOCABULARY="'tokenizer.model'" --gin.BATCH_SIZE=8
  --gin.TASK_FEATURE_LENGTHS="{'inputs': 48, 'targets': 24}" --gin.TRAIN_STEPS=3 --gin.LOG_PERIOD=1
  --gin.HELD_OUT=16 --gin.EVAL_STEPS=1 --gin.warmup_cosine.warmup_steps=1
  --gin.warmup_cosine.decay_steps=3
)
step openba-train --gin_file=gin/models/tiny.gin --gin_file=gin/runs/native/pretrain.gin \
  --gin.MODEL_DIR="'model'" --gin.named_config.vocab_size=1024 "${TRAINING[@]}"
step openba-eval --gin_file=gin/runs/native/eval.gin --gin.MODEL_DIR="'model'" \
  --gin.QUESTIONS="'$FACTS/questions'"
step openba inspect model spans
step openba-report model --output=report
step openba prune --input=model --output=pruned --mlp=48 --dry_run
step openba-prune --input=model --output=pruned --drop_decoder_layers=1 --embed=24 --heads=3 --mlp=48
step openba-score --input=model --output=scores.npz --method=taylor --axes=mlp \
  --calibration_stores=spans --calibration_lengths=48,24 --calibration_batch_size=8 \
  --calibration_batches=1
step openba-prune --input=model --output=scored --scores=scores.npz --method=taylor --mlp=48
step openba-infer --gin_file=gin/runs/native/infer.gin --gin.MODEL_DIR="'pruned'" \
  --gin.PROMPTS="['What is the capital of Japan?']" --gin.MAX_NEW_TOKENS=8
step bash -c "echo 'What is the capital of Japan?' | openba-chat \
  --gin_file=gin/runs/native/chat.gin --gin.MODEL_DIR=\"'pruned'\" --gin.MAX_NEW_TOKENS=8"
step openba-convert to_huggingface --input=pruned --output=huggingface
step openba-convert to_native --input=huggingface --output=native
step openba-convert verify --input=native --other=pruned
cat >again.gin <<'GIN'
include 'gin/sweeps/recover_learning_rate.gin'
Sweep.grid = {"warmup_cosine.peak": [1e-3]}
GIN
step openba-sweep --gin_file=again.gin --gin.OUTPUT_DIR="'sweep'" -- \
  --gin.INITIAL_CHECKPOINT_PATH="'pruned'" "${TRAINING[@]}"
step openba-sweep --gin_file=gin/sweeps/recipe.gin --gin.OUTPUT_DIR="'recipes'" \
  --gin.GRID="{'MLP': [48, 32]}" -- --gin.ANCESTOR="'huggingface'" \
  --gin.CORPUS="['$FACTS/corpus.jsonl']" --gin.RECOVER_TOKENS=500 --gin.GROUP_SIZE=28 \
  --gin.INPUTS_LENGTH=48 --gin.TARGETS_LENGTH=24 --gin.BATCH_SIZE=8 --gin.HELD_OUT=16 \
  --gin.EVAL_STEPS=1
step openba-pipeline --gin_file=gin/runs/native/quickstart.gin \
  --gin.OUTPUT_DIR="'pipeline'" --gin.CORPUS="['$FACTS/corpus.jsonl']" \
  --gin.INSTRUCTIONS="['$FACTS/instructions.jsonl']" --gin.QUESTIONS="'$FACTS/questions'" \
  --gin.Data.batch_size=8 --gin.Data.held_out=16 --gin.Data.eval_batches=1 \
  --gin.Pipeline.stages='[@layers_1/Stage()]' --gin.layers_1/Stage.recover_tokens=500 \
  --gin.pretrain/Phase.tokens=1000 --gin.tune/Phase.tokens=500
step openba-study --gin_file=gin/studies/distillation.gin --gin.OUTPUT_DIR="'study'" \
  --gin.ANCESTOR="'model'" --gin.CORPUS="['$FACTS/corpus.jsonl']" --gin.TOKENS='[1000]' \
  --gin.SEEDS='[0]' --gin.Data.batch_size=8 --gin.Data.held_out=16 --gin.Data.eval_batches=1 \
  --gin.cut/Stage.drop_encoder='[]' --gin.cut/Stage.drop_decoder='[1]' --gin.cut/Stage.embed=24 \
  --gin.cut/Stage.mlp=48
step openba-search --gin_file=gin/runs/native/search.gin --gin.OUTPUT_DIR="'search'" \
  --gin.ANCESTOR="'model'" --gin.CORPUS="['$FACTS/corpus.jsonl']" --gin.PARAMETERS=0.8 \
  --gin.CANDIDATES=1 --gin.STEPS=1 --gin.ESTIMATE="'scores'" --gin.CALIBRATION_BATCHES=1 \
  --gin.GROUP_SIZE=28 --gin.INPUTS_LENGTH=34 --gin.TARGETS_LENGTH=20 --gin.BATCH_SIZE=8 \
  --gin.HELD_OUT=16 --gin.EVAL_STEPS=1
