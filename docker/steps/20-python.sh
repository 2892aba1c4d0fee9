#!/usr/bin/env bash
# The virtual environment ($VENV, default .venv) with a list of packages at the versions of requirements.lock:
# all of them, or the list named as first argument.
set -euo pipefail
cd "$(dirname "$0")/../.."

venv=${VENV:-.venv}
list=${1:-requirements.lock}
[ -x "$venv/bin/python" ] || "${PYTHON:-python3}" -m venv "$venv"
more=()
if [ -n "${TORCH_INDEX:-}" ]; then # another index for PyTorch's wheels, such as its CPU builds
    more=(--extra-index-url "$TORCH_INDEX")
fi
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check "${more[@]}" \
    --constraint requirements.lock --requirement "$list"
"$venv/bin/python" -c 'import torch; print("PyTorch", torch.__version__)'
