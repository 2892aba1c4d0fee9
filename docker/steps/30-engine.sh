#!/usr/bin/env bash
# The sparse engine $SPARSE_BACKEND: auto, torch and triton come with requirements.lock, the others are added.
# MINKOWSKI_BUILD=cpu|cuda: which MinkowskiEngine (default: cuda where a GPU and nvcc are).
set -euo pipefail
cd "$(dirname "$0")/../.."

python=${VENV:-.venv}/bin/python
engine=${SPARSE_BACKEND:-auto}
case $engine in
    auto | torch | triton) ;;
    spconv)
        "$python" -m pip install --quiet --disable-pip-version-check --constraint requirements.lock spconv-triton==1.0.0
        ;;
    minkowski)
        "$python" -m tools.install_minkowski ${MINKOWSKI_BUILD:+"--$MINKOWSKI_BUILD"}
        ;;
    *)
        echo "error: SPARSE_BACKEND=$engine: it is auto, torch, triton, spconv or minkowski" >&2
        exit 2
        ;;
esac
echo "sparse engine: $engine"
