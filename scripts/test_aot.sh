#!/usr/bin/env bash
# Compiles every family's steps for TPUs and GPUs that are not there, and checks what comes out:
# the tests marked `aot`, in an environment with the extra of that name (2 GB; about 75 s of a core for each of 37).
#
#   bash scripts/test_aot.sh [PYTEST_ARGUMENTS...]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
OPENBA_VENV="${OPENBA_VENV:-$PWD/.venv-aot}"
install_packages() {
  install --editable "$REPOSITORY[test,aot]" && install --no-deps --requirement requirements/beam.txt
}
# shellcheck source=scripts/environment.sh
source scripts/environment.sh

say "compiling"
exec "$ENVIRONMENT/bin/python" -m pytest -m aot "$@"
