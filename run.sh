#!/usr/bin/env bash
# ./run.sh                      install into .venv, then run flags/quickstart.flags
# ./run.sh FILE.flags [--flag=value ...]   the same with another flagfile
# ./run.sh test [pytest arguments]         lint, type check, tests
# ./run.sh setup | quickstart | bench | tensorboard [LOGDIR]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

VENV=.venv

find_python() {
  local candidate
  for candidate in ${PYTHON:-} python3.11 python3; do
    if command -v "$candidate" >/dev/null &&
      "$candidate" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  echo "run.sh: Python 3.11 is needed; set PYTHON=/path/to/python3.11" >&2
  return 1
}

# Installs once per state of the requirements; $1 names an extra such as "[test]".
setup() {
  local extra=${1:-} stamp want python
  stamp="$VENV/.installed${extra//[^a-z]/}"
  want=$(cat setup.cfg constraints.txt | cksum)
  if [ -x "$VENV/bin/python" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$want" ]; then
    return
  fi
  if [ ! -x "$VENV/bin/python" ]; then
    python=$(find_python)
    "$python" -m venv "$VENV"
  fi
  echo "installing into $VENV (TensorFlow is large, this takes a minute or more)" >&2
  # compat: a plain path, found also from the folder that holds this one, which is
  # named like the package.
  "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check \
    --constraint constraints.txt --config-settings editable_mode=compat --editable ".$extra"
  echo "$want" >"$stamp"
}

run_tests() {
  "$VENV/bin/ruff" check .
  "$VENV/bin/ruff" format --check .
  "$VENV/bin/mypy"
  # Half of the time is Python's: two processes on two cores take half as long as one.
  "$VENV/bin/python" -m pytest --numprocesses=2 --dist=worksteal "$@"
}

word=${1:-quickstart}
[ $# -gt 0 ] && shift
case "$word" in
  setup) setup "[test]" ;;
  quickstart) setup && exec "$VENV/bin/python" -m tf_lottery.main --flagfile=flags/quickstart.flags "$@" ;;
  test) setup "[test]" && run_tests "$@" ;;
  bench) setup "[bench]" && exec "$VENV/bin/python" benchmarks/training_step.py "$@" ;;
  tensorboard)
    logdir=runs
    if [ $# -gt 0 ] && [ "${1#-}" = "$1" ]; then
      logdir=$1
      shift
    fi
    if [ ! -d "$logdir" ]; then
      echo "run.sh: tensorboard: $logdir is no directory; a run leaves its logs in runs/" >&2
      exit 2
    fi
    setup && exec "$VENV/bin/tensorboard" --logdir "$logdir" "$@"
    ;;
  -h | --help) sed -n '2,5s/^# //p' "$0" ;;
  *.flags) setup && exec "$VENV/bin/python" -m tf_lottery.main --flagfile="$word" "$@" ;;
  *)
    echo "run.sh: unknown word '$word'; one of: setup quickstart test bench tensorboard FILE.flags" >&2
    exit 2
    ;;
esac
