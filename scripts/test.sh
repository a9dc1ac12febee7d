#!/usr/bin/env bash
# Installs openba_jax with its tests and runs them: format, lint, types, pytest.
#
#   bash scripts/test.sh [PYTEST_ARGUMENTS...]
#
# With the newest versions of everything on the newest Python:
#
#   OPENBA_CONSTRAINTS=constraints-newest.txt OPENBA_VENV=.venv-newest PYTHON=python3.13 \
#     bash scripts/test.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
install_packages() {
  install --editable "$REPOSITORY[test]" && install --no-deps --requirement requirements/beam.txt
}
# shellcheck source=scripts/environment.sh
source scripts/environment.sh

BIN="$ENVIRONMENT/bin"
say "checking format, lint and types"
"$BIN/ruff" format --check --quiet . || die "run '$BIN/ruff format .' and look at what changed."
"$BIN/ruff" check --quiet .
"$BIN/mypy"
say "running the tests"
# A worker that dies ends the run: with another in its place, pytest-xdist can wait forever.
exec "$BIN/python" -m pytest -n auto --dist loadfile --max-worker-restart=0 "$@"
