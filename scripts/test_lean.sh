#!/usr/bin/env bash
# Installs openba_jax without seqio and TensorFlow (requirements/lean.txt) and runs every main.
#
#   bash scripts/test_lean.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
OPENBA_VENV="${OPENBA_VENV:-$PWD/.venv-lean}"
NEEDED_MIB=2000
install_packages() {
  install --no-deps --editable "$REPOSITORY" && install --requirement requirements/lean.txt
}
# shellcheck source=scripts/environment.sh
source scripts/environment.sh

FOLDER="$(mktemp -d)"
trap 'rm -rf "$FOLDER"' EXIT
say "running every main in $FOLDER"
"$ENVIRONMENT/bin/python" -m examples.facts --output_dir="$FOLDER/facts" --facts_per_relation=2 \
  --documents=400 --instructions=300 --choice_share=0
export PATH="$ENVIRONMENT/bin:$PATH"
(mkdir "$FOLDER/run" && cd "$FOLDER/run" && bash "$REPOSITORY/tests/packaging/every_main.sh" ../facts)
say "every main ran; the environment has $(du -sm "$ENVIRONMENT" | cut -f1) MiB"
