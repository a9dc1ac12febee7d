#!/usr/bin/env bash
# From nothing to a pruned, recovered, answering model: installs, then cuts the small model of
# examples/ancestor.
#
#   bash scripts/quickstart.sh [OUTPUT_DIR [GIN_ARGUMENTS...]]
#
# Safe to run again: what is done is kept, a run that was stopped goes on. OPENBA_LANGUAGE=zh, or a
# Chinese locale, has messages and tables in Chinese.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
install_packages() { install --editable "$REPOSITORY"; }
# shellcheck source=scripts/environment.sh
source scripts/environment.sh

OUTPUT="${1:-runs/quickstart}"
[ $# -gt 0 ] && shift
RELATIONS=element_symbols,units,planet_order,animal_classes,capitals,currencies,roman_numerals
RELATIONS=$RELATIONS,translations,opposites,authors
say "writing real facts, in Chinese and English, to $OUTPUT.facts" \
  "正在把中英文的真实知识写入 $OUTPUT.facts"
"$ENVIRONMENT/bin/python" -m examples.facts --output_dir="$OUTPUT.facts" \
  --relations="$RELATIONS" --facts_per_relation=6 --documents=20000 --instructions=6000 \
  --choice_share=0 --seed=2
say "running the pipeline into $OUTPUT" "正在运行流程，结果写入 $OUTPUT"
exec "$ENVIRONMENT/bin/python" -m openba_jax.pipeline \
  --gin_file=gin/runs/native/quickstart_ancestor.gin \
  --gin.OUTPUT_DIR="'$OUTPUT'" --gin.CORPUS="['$OUTPUT.facts/corpus.jsonl']" \
  --gin.INSTRUCTIONS="['$OUTPUT.facts/instructions.jsonl']" \
  --gin.QUESTIONS="'$OUTPUT.facts/questions'" "$@"
