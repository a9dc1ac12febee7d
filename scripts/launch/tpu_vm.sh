#!/usr/bin/env bash
# A published run on all hosts of a TPU VM, which gcloud must know; installs openba_jax there first.
#
#   export REPOSITORY=https://... DATA=/mnt/bucket/data RUNS=/mnt/bucket/runs ZONE=us-central2-b
#   NAME=v5p-64 bash scripts/launch/tpu_vm.sh 15b      # 32 x v5p (v5p-64), or 64 x v5e
#   NAME=v5p-8  bash scripts/launch/tpu_vm.sh 3.8b     #  4 x v5p (v5p-8), or 16 x v5e
#   NAME=v5p-8  bash scripts/launch/tpu_vm.sh llama_7b #  4 x v5p (v5p-8), or 16 x v5e
#
# The run ends with this script, so that it is best started in tmux; started again, it goes on.
# Installed is what REPOSITORY holds at the first time. On several slices, which Cloud TPU joins,
# add --gin.MESH_SHAPE="(SLICES, -1, 1)": data alone crosses them.
set -euo pipefail
: "${1:?name a run: 15b, 3.8b or llama_7b}" "${NAME:?name the TPU VM}" "${ZONE:?name its zone}" \
  "${REPOSITORY:?name the address of this repository}" \
  "${DATA:?name the folder of token stores}" "${RUNS:?name the folder of runs}"

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
  .venv/bin/pip install --quiet -r requirements/lean.txt 'jax[tpu]'
  .venv/bin/pip install --quiet --no-deps -e .
"
# Quotes within the arguments must survive two shells.
printf -v command '%q ' env DATA="$DATA" RUNS="$RUNS" PYTHON=.venv/bin/python \
  bash scripts/launch/train.sh "$@" --multiprocess
echo "starting $1 on all hosts of $NAME"
on_all_hosts "cd openba_jax && $command"
