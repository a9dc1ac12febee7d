#!/usr/bin/env bash
# Installs openba_jax with its tests and runs them: format, lint, types, pytest.
#
#   bash scripts/test.sh [PYTEST_ARGUMENTS...]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/environment.sh
source scripts/environment.sh "[test]" requirements/beam.txt

BIN="$ENVIRONMENT/bin"
say "checking format, lint and types"
"$BIN/ruff" format --check --quiet . || die "run '$BIN/ruff format .' and look at what changed."
"$BIN/ruff" check --quiet .
"$BIN/mypy"
say "running the tests"
exec "$BIN/python" -m pytest -n auto --dist loadfile "$@"
