#!/usr/bin/env bash
# Makes one folder with all that the pipeline needs on a machine without a network. docs/offline.sh --help explains.
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: docs/offline.sh FOLDER [--no-wheels] [--config FILE] [key.sub=value ...]

Fills FOLDER, where there is a network, with the pinned packages as wheels, the published weights that these settings
ask for, and this program; `bash FOLDER/start.sh data.root=/FOLDER/OF/THE/DATA` then runs the whole pipeline with these
settings where there is none, and leaves runs/ and submissions/ in the current folder. See docs/offline.md.

  --no-wheels   without packages, for a machine that has them
TEXT
}

case ${1:-} in -h | --help) usage && exit 0 ;; "" | -*) usage >&2 && exit 2 ;; esac
mkdir -p "$1"
folder=$(cd "$1" && pwd)
shift
wheels=yes settings=()
for argument; do
    if [ "$argument" = --no-wheels ]; then wheels=; else settings+=("$argument"); fi
done
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=.venv/bin/python
[ -x "$python" ] || python=python3

if [ -n "$wheels" ]; then
    echo "offline: packages"
    packages=(-r requirements.txt)
    [ ! -f requirements-large.txt ] || packages+=(-r requirements-large.txt)
    "$python" -m pip download --quiet --disable-pip-version-check --dest "$folder/wheels" "${packages[@]}"
fi

echo "offline: weights"
HF_HOME="$folder/hub" TORCH_HOME="$folder/hub" "$python" - ${settings[@]+"${settings[@]}"} <<'PYTHON'
import sys

from src.base.errors import guarded
from src.inference.network_bytes import encoder_bytes, network_bytes
from src.settings.load import load


def fetch() -> None:
    settings, _ = load(sys.argv[1:], "preprocess")
    network_bytes(settings)
    for name in settings.ensemble.encoders if settings.task != "caption" else []:
        encoder_bytes(settings, name)


guarded(fetch)
PYTHON
if [ -d "$folder/hub" ]; then # links do not survive most uploads: files take their place
    cp -RL "$folder/hub" "$folder/hub.new"
    find "$folder/hub.new" -type d -name blobs -prune -exec rm -r {} +
    rm -r "$folder/hub"
    mv "$folder/hub.new" "$folder/hub"
fi

echo "offline: the program"
rm -rf "$folder/program"
mkdir "$folder/program"
for part in src configs run.sh requirements.txt requirements-large.txt; do
    [ ! -e "$part" ] || cp -R "$part" "$folder/program/"
done
find "$folder/program" -type d -name __pycache__ -prune -exec rm -r {} +

{
    cat <<'START'
#!/usr/bin/env bash
# Runs the pipeline without a network: bash start.sh data.root=/FOLDER/OF/THE/DATA [key.sub=value ...]
set -euo pipefail
place=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")"
export HF_HOME=$PWD/hub TORCH_HOME=$PWD/hub HF_HUB_OFFLINE=1 PYTHONDONTWRITEBYTECODE=1
if [ -d wheels ]; then
    packages=()
    for file in program/requirements*.txt; do packages+=(-r "$file"); done
    python -m pip install --quiet --disable-pip-version-check --no-index --find-links wheels "${packages[@]}"
fi
cd program
START
    printf 'exec bash run.sh --here "run.root=$place/runs" "run.submissions=$place/submissions"'
    [ ${#settings[@]} = 0 ] || printf ' %q' "${settings[@]}"
    printf ' "$@"\n'
} >"$folder/start.sh"
echo "offline: $folder is complete: bash $folder/start.sh data.root=/FOLDER/OF/THE/DATA"
