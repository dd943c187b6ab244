#!/usr/bin/env bash
# Train under Slurm: tools/slurm_train.sh PARTITION JOB_NAME CONFIG [train.py options]
# GPUS (all, default 8), GPUS_PER_NODE (8), CPUS_PER_TASK (5), SBATCH_ARGS and SRUN_ARGS may be set.
#
# Submits itself with sbatch; the output goes to JOB_NAME-NUMBER.out. Two minutes before its time is up, or when it is
# preempted, the training saves and stops (exit code 75), and the job is queued again with --resume auto. A hang that
# the watchdog ended (exit code 4) is queued again three times. Within an allocation it runs at once.
set -euo pipefail
if [ $# -lt 3 ]; then echo "usage: $0 PARTITION JOB_NAME CONFIG [train.py options]" >&2; exit 2; fi
PARTITION=$1 JOB_NAME=$2 CONFIG=$3
HERE=$(cd "$(dirname "$0")" && pwd)
GPUS=${GPUS:-8}
GPUS_PER_NODE=${GPUS_PER_NODE:-8}
PER_NODE=$((GPUS < GPUS_PER_NODE ? GPUS : GPUS_PER_NODE))
RESOURCES=(--gres="gpu:$PER_NODE" --ntasks="$GPUS" --ntasks-per-node="$PER_NODE" --cpus-per-task="${CPUS_PER_TASK:-5}")

if [ -z "${SLURM_JOB_ID-}" ]; then
    read -ra extra <<< "${SBATCH_ARGS:-}"
    # exec: the signal goes to the batch shell alone.
    exec sbatch -p "$PARTITION" --job-name="$JOB_NAME" "${RESOURCES[@]}" --requeue --open-mode=append \
        --signal=B:TERM@120 --output="$JOB_NAME-%j.out" ${extra[@]+"${extra[@]}"} \
        --wrap "exec bash $(printf '%q ' "$HERE/slurm_train.sh" "$@")"
fi

shift 3
resume=()
if ((${SLURM_RESTART_COUNT:-0} > 0)); then resume=(--resume auto); fi
told=0
trap 'told=1; scancel --signal=TERM "$SLURM_JOB_ID"' TERM  # to the job's steps; the shell is none

read -ra extra <<< "${SRUN_ARGS:-}"
srun "${RESOURCES[@]}" --kill-on-bad-exit=1 ${extra[@]+"${extra[@]}"} \
    "${PYTHON:-python}" -u "$HERE/train.py" "$CONFIG" --launcher slurm "$@" ${resume[@]+"${resume[@]}"} &
code=0
wait $! || code=$?
while kill -0 $! 2>/dev/null; do  # the trap ended the first wait
    code=0
    wait $! || code=$?
done

again=0
if ((code == 75 || (told && code != 0))); then again=1; fi
if ((code == 4 && ${SLURM_RESTART_COUNT:-0} < 3)); then again=1; fi
# A job that its owner cancels is no longer running.
if ((again)) && [ "$(squeue -h -j "$SLURM_JOB_ID" -o %T)" = RUNNING ]; then
    echo "exit code $code: the job is queued again and goes on with --resume auto"
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
