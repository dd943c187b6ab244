#!/usr/bin/env bash
# From a fresh clone to a detector and two compared segmentors, on the CPU: bash tools/quickstart.sh [--out DIR]
# Sets up .venv, generates a miniature data set, trains and tests both tasks, prints one table and writes
# a report. Minutes after set-up.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PYTHON=$(bash tools/setup_env.sh --print-python)
exec "$PYTHON" -m mmbackbones.launch.quickstart "$@"
