#!/usr/bin/env bash
# Installs openba_jax and T5X on all hosts of a TPU VM and starts t5x.train on them.
#
#   NAME=my-tpu ZONE=us-central2-b REPOSITORY=https://... \
#     bash scripts/launch/t5x/tpu_vm.sh --gin_file=gin/models/stage4_3_8b.gin \
#     --gin_file=gin/runs/t5x/pretrain.gin --gin.MODEL_DIR="'/mnt/bucket/run'" ...
#
# The TPU VM must exist, and gcloud be logged in. The run ends with this script, so that it is best
# started in tmux; started again, it goes on. Installed is what REPOSITORY holds at the first time.
set -euo pipefail
: "${NAME:?name the TPU VM}" "${ZONE:?name its zone}" "${REPOSITORY:?name the address of this repository}"

on_all_hosts() {
  gcloud compute tpus tpu-vm ssh "$NAME" --zone="$ZONE" --worker=all --command="$1"
}

echo "installing on all hosts of $NAME"
# Python of the usual TPU images is older than 3.11; uv brings one.
on_all_hosts "
  set -e
  test -d openba_jax || git clone '$REPOSITORY' openba_jax
  cd openba_jax
  if ! test -d .venv; then
    python3 -m pip install --quiet --user uv
    python3 -m uv venv --quiet --python=3.11 --seed .venv
  fi
  .venv/bin/pip install --quiet -c constraints.txt -e '.[tpu]'
  .venv/bin/pip install --quiet --no-deps -r requirements/t5x.txt
"
# Quotes within the arguments must survive two shells.
printf -v arguments '%q ' "$@"
echo "starting t5x.train on all hosts of $NAME"
on_all_hosts "cd openba_jax && .venv/bin/python -m t5x.train --multiprocess_gpu --gin_search_paths=. $arguments"
