#!/usr/bin/env bash
# The demo in its short form with the engine $SPARSE_BACKEND: trains a teacher and two students, ends with the report.
# 1 to 2 minutes on 2 cores. Logs go to $1 (default logs/selftest).
set -euo pipefail
cd "$(dirname "$0")/../.."

engine=${SPARSE_BACKEND:-auto}
python=${VENV:-.venv}/bin/python
if [ "$engine" = minkowski ]; then
    "$python" -m tools.install_minkowski --check
fi
"$python" -m tools.demo --quick --logdir "${1:-logs/selftest}" --sparse_backend "$engine"
