#!/usr/bin/env bash
#SBATCH --job-name=openba
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@180
#SBATCH --requeue
#SBATCH --open-mode=append
# A published run on GPUs under Slurm, one process per node; a run that is preempted, or whose time
# is up, saves and is queued again.
#
#   export DATA=/mnt/data RUNS=/mnt/runs PYTHON=$PWD/.venv/bin/python
#   sbatch --nodes=4 scripts/launch/slurm.sh 15b      # 32 x H100
#   sbatch --nodes=1 scripts/launch/slurm.sh 3.8b     #  8 x H100
#   sbatch --nodes=1 scripts/launch/slurm.sh llama_7b #  8 x H100
#
# Start it in the repository's root. What follows the name of the run goes to openba-train.
set -uo pipefail
: "${1:?name a run: 15b, 3.8b or llama_7b}"

several=()
if [[ ${SLURM_NNODES:-1} -gt 1 ]]; then
  several=(--multiprocess) # JAX reads the other processes from Slurm's variables.
fi
srun bash scripts/launch/train.sh "$@" "${several[@]}"
code=$?
if [[ $code -eq 143 ]]; then # Stopped by SIGTERM and saved.
  scontrol requeue "$SLURM_JOB_ID"
fi
exit $code
