#!/usr/bin/env bash
# Makes a virtual environment; sourced by quickstart.sh, test.sh and test_lean.sh.
#
# Each defines before what stands in the environment:
#   install_packages() { install --editable "$REPOSITORY"; }
# From outside come
#   OPENBA_VENV         folder of the environment
#   OPENBA_CONSTRAINTS  versions to install, constraints.txt by default
#   PYTHON              the Python to make it with

# As openba_jax.language decides.
reads_chinese() {
  case "${OPENBA_LANGUAGE:-${LANGUAGE:-${LC_ALL:-${LC_MESSAGES:-${LANG:-}}}}}" in
    [zZ][hH]*) ;;
    *) return 1 ;;
  esac
}
say() { # ENGLISH [CHINESE]
  local text="$1"
  if [ $# -gt 1 ] && reads_chinese; then text="$2"; fi
  printf '%s\n' "openba_jax: $text"
}
die() { printf '%s\n' "openba_jax: error: $*" >&2; exit 1; }

REPOSITORY="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
ENVIRONMENT="${OPENBA_VENV:-$REPOSITORY/.venv}"
CONSTRAINTS="${OPENBA_CONSTRAINTS:-$REPOSITORY/constraints.txt}"
NEEDED_MIB="${NEEDED_MIB:-6000}"

find_python() {
  local candidate
  # One that is named is taken, or none: another would make an environment that nobody asked for.
  local candidates=(python3.12 python3.13 python3.11 python3 python)
  [ -z "${PYTHON:-}" ] || candidates=("$PYTHON")
  for candidate in "${candidates[@]}"; do
    command -v "$candidate" >/dev/null 2>&1 || continue
    if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
      >/dev/null 2>&1; then
      printf '%s' "$candidate"
      return
    fi
  done
}

install() {
  "$ENVIRONMENT/bin/python" -m pip install --disable-pip-version-check --quiet \
    --constraint "$CONSTRAINTS" "$@"
}

make_environment() {
  local python stamp wanted free log
  [ -f "$CONSTRAINTS" ] || die "there is no $CONSTRAINTS; OPENBA_CONSTRAINTS names a file of versions."
  stamp="$ENVIRONMENT/.openba_jax"
  wanted="$({ cat "$REPOSITORY"/{setup.py,setup.cfg} "$REPOSITORY"/requirements/*.txt "$CONSTRAINTS"
    declare -f install_packages; } | cksum)"
  if [ -f "$stamp" ] && grep -qxF "$wanted" "$stamp"; then
    say "using $ENVIRONMENT" "使用环境 $ENVIRONMENT"
    return
  fi
  python="$(find_python)"
  if [ -z "$python" ] && [ -n "${PYTHON:-}" ]; then
    die "PYTHON is $PYTHON, which is no Python 3.11, 3.12 or 3.13 that runs; name another, or none."
  fi
  if [ -z "$python" ]; then
    die "no Python 3.11, 3.12 or 3.13 was found ($(python3 --version 2>&1 | head -n 1)); install" \
      "one, or name it with PYTHON=/path/to/python."
  fi
  mkdir -p "$ENVIRONMENT" || die "cannot make $ENVIRONMENT; name another folder with OPENBA_VENV."
  if [ ! -f "$stamp" ]; then
    free="$(df -Pm "$ENVIRONMENT" | awk 'NR == 2 { print $4 }')"
    if [ "$free" -lt "$NEEDED_MIB" ]; then
      die "$ENVIRONMENT has $free MiB free and the installation needs $NEEDED_MIB; free some, or" \
        "name a folder on another disk with OPENBA_VENV."
    fi
  fi
  say "making $ENVIRONMENT with $("$python" --version)" \
    "用 $("$python" --version) 建立环境 $ENVIRONMENT"
  "$python" -m venv "$ENVIRONMENT" >/dev/null \
    || die "$python cannot make virtual environments; install its venv module."
  say "installing openba_jax (2 to 4 minutes)" "正在安装 openba_jax（2 至 4 分钟）"
  log="$ENVIRONMENT/install.log"
  if ! install_packages >"$log" 2>&1; then
    tail -n 5 "$log" >&2
    if grep -qi 'no space left' "$log"; then
      die "the disk of $ENVIRONMENT is full; free some, or name another with OPENBA_VENV."
    elif grep -qiE 'connection|temporary failure|timed out|could not find a version' "$log"; then
      die "the package index is out of reach or lacks a package; check the network and pip's" \
        "index settings (the whole log is $log)."
    fi
    die "the installation failed; the whole log is $log."
  fi
  printf '%s\n' "$wanted" >>"$stamp"
}

make_environment
