#!/usr/bin/env bash
# Train with torchrun: tools/dist_train.sh CONFIG GPUS [train.py options]
# Several machines: set NNODES, NODE_RANK, MASTER_ADDR and PORT on each. GPUS is the number of processes per machine.
set -euo pipefail
if [ $# -lt 2 ]; then echo "usage: $0 CONFIG GPUS [train.py options]" >&2; exit 2; fi
HERE=$(cd "$(dirname "$0")" && pwd)
PYTHON=${PYTHON:-$(command -v python || command -v python3 || echo python)}
"$PYTHON" "$HERE/../mmbackbones/needs.py" "$0" "$@" || exit
CONFIG=$1 GPUS=$2; shift 2
exec "$PYTHON" -m torch.distributed.run \
    --nnodes="${NNODES:-1}" --node_rank="${NODE_RANK:-0}" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" --master_port="${PORT:-29500}" \
    --nproc_per_node="$GPUS" "$HERE/train.py" "$CONFIG" --launcher pytorch "$@"
