#!/usr/bin/env bash
# A published run on machines that are reached by ssh, one process on each.
#
#   export DATA=/mnt/data RUNS=/mnt/runs
#   HOSTS="gpu1 gpu2 gpu3 gpu4" bash scripts/launch/ssh.sh 15b      # 4 x 8 x H100
#   HOSTS="gpu1" bash scripts/launch/ssh.sh 3.8b                    #     8 x H100
#   HOSTS="gpu1" bash scripts/launch/ssh.sh llama_7b                #     8 x H100
#
# Every host has this repository, with an environment in .venv, in FOLDER (openba_jax in the home
# folder), and is reached without a password. The first host is the coordinator; its PORT (8476)
# must be open to the others. Ctrl-C here saves and stops the run everywhere; what follows the name
# of the run goes to openba-train.
set -euo pipefail
: "${1:?name a run: 15b, 3.8b or llama_7b}" "${HOSTS:?name the hosts}" "${DATA:?name the folder of token stores}" "${RUNS:?name the folder of runs}"
read -ra hosts <<<"$HOSTS"
ssh=${SSH:-ssh}

several=()
if [[ ${#hosts[@]} -gt 1 ]]; then
  several=(--coordinator_address="${hosts[0]}:${PORT:-8476}" --process_count="${#hosts[@]}")
fi
processes=()
stop() { # ssh does not pass signals on.
  for host in "${hosts[@]}"; do
    "$ssh" "$host" "pkill -TERM -f '[o]penba_jax.train .*MODEL_DIR=.$RUNS/$run'" || true
  done
}
run=$1
trap stop INT TERM
for index in "${!hosts[@]}"; do
  arguments=("$@" "${several[@]}")
  [[ ${#hosts[@]} -gt 1 ]] && arguments+=(--process_index="$index")
  printf -v command '%q ' env DATA="$DATA" RUNS="$RUNS" PYTHON=.venv/bin/python \
    bash scripts/launch/train.sh "${arguments[@]}"
  "$ssh" "${hosts[$index]}" "cd ${FOLDER:-openba_jax} && $command" </dev/null &
  processes+=($!)
done
code=0
for process in "${processes[@]}"; do
  # A signal ends the wait, but not yet the process.
  while kill -0 "$process" 2>/dev/null; do wait "$process" && true; done
  wait "$process" || code=$?
done
exit $code
