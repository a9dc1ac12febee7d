#!/usr/bin/env bash
# Builds the documentation with the reference of the API into site/; fails at a link that leads nowhere.
#
#   bash scripts/docs.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
OPENBA_VENV="${OPENBA_VENV:-$PWD/.venv-docs}"
NEEDED_MIB=300
# The reference is read from the sources: the package and what it needs are not installed.
mapfile -t NEEDED < <(sed -n '/^docs =/,/^[a-z]/s/^    //p' setup.cfg)
install_packages() { install "${NEEDED[@]}"; }
# shellcheck source=scripts/environment.sh
source scripts/environment.sh

"$ENVIRONMENT/bin/python" -m mkdocs build --strict
say "written to site/; '$ENVIRONMENT/bin/python -m mkdocs serve' shows the pages while you write"
