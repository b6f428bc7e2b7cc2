#!/usr/bin/env bash
# Sets up what the pipeline needs, then runs its stages one after another. ./run.sh --help explains.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")" || exit 1

usage() {
    cat <<'TEXT'
usage: ./run.sh [--config FILE] [--fold K] [--fresh] [--here] [key.sub=value ...]
       ./run.sh test [--here] [pytest arguments, for example -m "not slow"]

Makes .venv with the pinned packages of requirements.txt (once), then goes from data/train.csv to
submissions/submission.csv. Without data/train.csv it makes and uses a demo competition in data/demo.
A stage whose inputs, code and settings have not changed is skipped; what was cut off goes on where it was.

  --config FILE   settings that differ from the defaults, for example configs/mobilenet_gru_128.yaml
  --fold K        train and predict one fold only
  --fresh         start over: make every stage's output again
  --here          use the active Python environment instead of .venv, after a look at its versions
  key.sub=value   one setting, for example train.epochs=30; python -m src.train --help lists them all
  test            set up, then run the tests
TEXT
}

fail() {
    [ -n "$stopped" ] && exit "$stopped"
    echo "error: $*" >&2
    exit 1
}

# A signal interrupts `wait` and nothing else for certain: bash 5.2 loses some that come while it reads $(...) or waits
# for a program in the foreground. So every program that takes time runs in the background.
child=
run() {
    [ -n "$stopped" ] && exit "$stopped"
    "$@" &
    child=$!
    [ -n "$stopped" ] && stop "$stopped" # it came between the two lines above
    local code
    while :; do
        wait "$child"
        code=$?
        kill -0 "$child" 2>/dev/null || break
    done
    child=
    [ -z "$stopped" ] || exit "$stopped"
    return "$code"
}

stop() { # have the program stop; a terminal's Ctrl-C does not reach what runs in the background and starts yet
    stopped=$1
    [ -n "$child" ] || return
    kill -TERM "$child" 2>/dev/null
    { sleep 1 && kill -TERM "$child"; } >/dev/null 2>&1 & # again: it is lost where it meets the child before its exec
}
stopped=
trap 'stop 143' TERM
trap 'stop 130' INT

find_python() {
    for PYTHON in python3 python3.13 python3.12 python3.11 python3.14 python; do
        run "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && return
    done
    return 1
}

is_set_up() {
    cksum <requirements.txt | cmp -s - .venv/installed && "$PYTHON" -c '' 2>/dev/null
}

set_up() {
    PYTHON=.venv/bin/python
    is_set_up && return
    find_python || fail "no Python 3.11 or newer found; install one and run this again"
    command -v flock >/dev/null && exec 9>.setup.lock && run flock 9 # a second start waits for the first
    local base=$PYTHON
    PYTHON=.venv/bin/python
    is_set_up && exec 9>&- && return
    # venv --clear empties what a link points to: somebody else's environment
    [ -L .venv ] && fail ".venv is a link to an environment without the packages of requirements.txt: remove the link, or use --here"
    echo "setting up .venv (once; several GB are downloaded)"
    run "$base" -m venv --clear .venv || fail "$base cannot make a virtual environment; install its venv package (Debian: apt install python3-venv)"
    run "$PYTHON" -m pip install --quiet --disable-pip-version-check -r requirements.txt ||
        fail "the packages of requirements.txt could not be installed: see above; run this again when that is mended"
    cksum <requirements.txt >.venv/installed
    exec 9>&-
}

LOOK_HERE='
import importlib.metadata, sys

missing, other = [], []
for line in open("requirements.txt", encoding="utf-8"):
    name, pinned, version = line.strip().partition("==")
    if not pinned:
        continue
    try:
        found = importlib.metadata.version(name.partition("[")[0])  # without extras
    except importlib.metadata.PackageNotFoundError:
        missing.append(line.strip())
        continue
    if found.split("+")[0] != version:
        other.append(f"{name} {found} (pinned: {version})")
if other:
    print("--here: other versions than pinned, so numbers may differ in their last digits:", ", ".join(other))
if missing:
    sys.exit(f"error: --here: this environment lacks packages; pip install {'\'' '\''.join(missing)}")
'
look_here() {
    find_python || fail "no Python 3.11 or newer found in this environment"
    run "$PYTHON" -c "$LOOK_HERE" || exit
}

here= tests= arguments=()
[ "${1:-}" = test ] && tests=yes && shift
while [ $# -gt 0 ]; do
    case $1 in
    -h | --help) usage && exit 0 ;;
    --here) here=yes ;;
    *) arguments+=("$1") ;;
    esac
    shift
done
if [ -n "$here" ]; then look_here; else set_up; fi
if [ -n "$tests" ]; then
    exec "$PYTHON" -m pytest ${arguments[@]+"${arguments[@]}"} # not in the background, where Ctrl-C is ignored
else
    export STAGES_END_WITH_PARENT=$$ # no stage outlives this script, even where the script is killed
    run "$PYTHON" -m src.pipeline.stages ${arguments[@]+"${arguments[@]}"}
fi
