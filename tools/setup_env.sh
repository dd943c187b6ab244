#!/usr/bin/env bash
# Make the project's environment, or do nothing where it is ready. Safe to run again, also after an interruption.
#
#   bash tools/setup_env.sh                            # progress on stderr
#   PYTHON=$(bash tools/setup_env.sh --print-python)   # the same, and the environment's python on stdout
#
# Environment: .venv in the project's root, or $MMBACKBONES_VENV. Nothing else is written but pip's cache.
# Exit code 2 and one line that begins with "error:" say what is missing; pip's output is in setup.log there.
# mmcv's switches are honoured: FORCE_CUDA=1 builds CUDA operators where no GPU is visible, and
# CUDA_VISIBLE_DEVICES= hides the GPUs; so are MAX_JOBS, CXX, CFLAGS, CXXFLAGS and pip's own settings.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
VENV=${MMBACKBONES_VENV:-$ROOT/.venv}
[[ $VENV == /* ]] || VENV=$PWD/$VENV
PYTHON=$VENV/bin/python
LOG=$VENV/setup.log
STAMP=$VENV/.ready

FREE_GB=4            # the environment takes 2 GB on the CPU; pip unpacks and compiles beside it
FREE_GB_CUDA=12      # the CUDA libraries that torch brings are several GB, in the environment and in pip's cache
JOB_MB=2500          # mmcv's pybind.cpp took 2.1 GB of memory with the flags below
BUILD_TOOLS=('setuptools>=80,<81' wheel packaging ninja psutil)
HEARTBEAT_S=30

export PIP_USER=0 PIP_NO_INPUT=1 PIP_PROGRESS_BAR=off PIP_DISABLE_PIP_VERSION_CHECK=1
unset PYTHONPATH PYTHONHOME

say() { printf '%s\n' "$*" >&2; }

fail() {
    say "error: $*"
    exit 2
}

# All that decides what is installed, and that it is there, as one hash. Fails where a package is missing.
state() {
    "$PYTHON" -I - "$ROOT" 2>/dev/null <<'EOF'
import hashlib
import importlib.util
import sys
import sysconfig
from pathlib import Path

root = Path(sys.argv[1])
inputs = [root / name for name in ('requirements.txt', 'pyproject.toml', 'setup.py', 'tools/setup_env.sh',
                               'mmbackbones/torchvision_hook.py')]
inputs += sorted(p for p in root.glob('mmbackbones/**/*') if p.suffix in {'.c', '.cc', '.cpp', '.cu', '.h', '.hpp'})
digest = hashlib.sha256(sys.version.encode())
for path in inputs:
    digest.update(path.name.encode() + path.read_bytes() if path.is_file() else b'')
for name in ('torch', 'torchvision', 'mmengine', 'mmcv', 'mmdet', 'mmseg', 'timm', 'pycocotools', 'pytest', 'ruff', 'mypy',
             'importlinter', 'build'):
    if importlib.util.find_spec(name) is None:
        sys.exit(1)
for path in sorted(root.glob('mmbackbones/**/*.so')):     # the C++ scan is optional, but may not get lost
    digest.update(path.name.encode())
for path in sorted(Path(sysconfig.get_paths()['purelib']).glob('mmbackbones_torchvision.*')):     # nor may this
    digest.update(path.name.encode())
if not list(Path(importlib.util.find_spec('mmcv').origin).parent.glob('_ext*')):
    sys.exit(1)
if Path(importlib.util.find_spec('mmbackbones').origin).resolve().parents[1] != root:
    sys.exit(1)
print(digest.hexdigest())
EOF
}

ready() {
    local now
    [[ -f $STAMP ]] && now=$(state) && [[ $now == "$(<"$STAMP")" ]]
}

# What an interpreter offers, in one word and its version: ok, version, venv or headers.
probe() {
    "$1" - 2>/dev/null <<'EOF'
import os
import sys
import sysconfig

fault = 'ok'
try:
    import ensurepip
    import venv
except ImportError:
    fault = 'venv'
if not os.path.isfile(os.path.join(sysconfig.get_paths()['include'], 'Python.h')):
    fault = 'headers'
if not (3, 10) <= sys.version_info[:2] <= (3, 13):
    fault = 'version'
print('%s %d.%d.%d' % ((fault,) + sys.version_info[:3]))
EOF
}

refuse_python() {  # FAULT VERSION NAME
    case $1 in
        version) fail "$3 is Python $2; Python 3.10 to 3.13 is needed (tested: 3.11)" ;;
        venv) fail "$3 (Python $2) cannot make environments; install its venv and ensurepip (Debian: python3-venv)" ;;
        headers) fail "$3 (Python $2) has no Python.h to compile mmcv with; install its headers (Debian: python3-dev)" ;;
    esac
}

# The first suitable interpreter on PATH; else what is wrong with the one that comes nearest.
base_python() {
    local name word version nearest=()
    for name in python3 python3.11 python3.12 python3.13 python3.10; do
        read -r word version < <(probe "$name") || continue
        if [[ $word == ok ]]; then
            echo "$name"
            return
        fi
        [[ ${#nearest[@]} -gt 0 && ($word == version || ${nearest[0]} != version) ]] || nearest=("$word" "$version" "$name")
    done
    [[ ${#nearest[@]} -gt 0 ]] && refuse_python "${nearest[@]}"
    fail 'no python3 on PATH; Python 3.10 to 3.13 is needed (tested: 3.11)'
}

free_gb() {
    local folder=$VENV
    until [[ -d $folder ]]; do folder=$(dirname "$folder"); done
    df -Pk "$folder" | awk 'NR == 2 {print int($4 / 1048576)}'
}

need_free_gb() {  # GIGABYTES WHAT-FOR
    local free
    free=$(free_gb)
    ((free >= $1)) || fail "$free GB of free disk at $VENV; $2 needs $1 GB"
}

# mmcv with its operators, for CUDA too where that is asked for. Exit 1: mmcv itself cannot be imported.
mmcv_works() {  # [cpu|cuda]
    "$PYTHON" - "${1-cpu}" <<'EOF'
import sys

try:
    import mmcv
except Exception as fault:
    sys.exit(f'import mmcv: {fault}')
try:
    from mmcv.ops import get_compiling_cuda_version
except Exception as fault:
    print(f'import mmcv.ops: {fault}')
    sys.exit(3)
if sys.argv[1] == 'cuda' and get_compiling_cuda_version() == 'not available':
    print('mmcv was built without CUDA operators')
    sys.exit(3)
EOF
}

preflight() {
    local word version
    if [[ -d $VENV && ! -f $VENV/pyvenv.cfg && ! -f $LOG && -n $(ls -A "$VENV") ]]; then
        fail "$VENV exists and is not a virtual environment; remove it or set MMBACKBONES_VENV to another folder"
    fi
    if read -r word version < <(probe "$PYTHON"); then
        [[ $word != version ]] || refuse_python version "$version" "$PYTHON"
        ! mmcv_works >/dev/null 2>&1 || return 0
        [[ $word != headers ]] || refuse_python headers "$version" "$PYTHON"
        BASE=$PYTHON
    else
        BASE=$(base_python)
    fi
    command -v "${CXX:-c++}" >/dev/null ||
        fail "no C++ compiler (${CXX:-c++}) to build mmcv's operators with; install one (Debian: build-essential) or set CXX"
    need_free_gb "$FREE_GB" 'the environment'
}

one_at_a_time() {
    mkdir -p "$VENV"
    command -v flock >/dev/null || return 0
    exec 9>"$VENV/.lock"
    flock -n 9 && return
    say 'another set-up of this environment is running; waiting for it'
    flock 9
}

# One line now and then while a long step runs, with the compiler's own count where it gives one.
heartbeat() {  # START
    local next=$HEARTBEAT_S elapsed count
    exec 9>&-
    while sleep 1 >/dev/null 2>&1; do
        elapsed=$((SECONDS - $1))
        ((elapsed >= next)) || continue
        next=$((next + HEARTBEAT_S))
        count=$(tail -n +"$LOG_FROM" "$LOG" | grep -oE '^ *\[[0-9]+/[0-9]+\]' | tail -n 1) || true
        say "      $elapsed s${count:+, ${count##* }}"
    done
}

stop_heartbeat() {
    [[ -n ${BEAT-} ]] || return 0
    kill "$BEAT" 2>/dev/null || true
    wait "$BEAT" 2>/dev/null || true
    BEAT=
}
trap stop_heartbeat EXIT

explain() {  # LABEL CODE: the end of the step's output, then one line
    local reason="exit code $2" output
    output=$(tail -n +"$LOG_FROM" "$LOG")
    if [[ $output =~ NewConnectionError|ConnectTimeout|NameResolution|ProxyError|SSLError|Max\ retries ]]; then
        reason='the package index cannot be reached'
    fi
    tail -n 15 <<<"$output" >&2
    fail "$1: $reason (whole output: $LOG)"
}

step() {  # LABEL COMMAND...
    local label=$1 start=$SECONDS code=0
    shift
    say "  $label"
    printf '\n$ %s\n' "$*" >>"$LOG"
    LOG_FROM=$(wc -l <"$LOG")
    heartbeat "$start" &
    BEAT=$!
    "$@" >>"$LOG" 2>&1 </dev/null || code=$?
    stop_heartbeat
    ((code == 0)) || explain "$label" "$code"
    say "      done in $((SECONDS - start)) s"
}

pip_install() { "$PYTHON" -m pip install -c "$ROOT/requirements.txt" "$@"; }

make_venv() {
    if ! "$PYTHON" -c '' 2>/dev/null; then
        rm -rf "${VENV:?}"/{bin,lib,lib64,include,pyvenv.cfg}
        "$BASE" -m venv "$VENV"
    fi
    "$PYTHON" -m pip --version || "$PYTHON" -m ensurepip --upgrade
}

# Torch alone comes first, because only then is it known whether it will bring the CUDA libraries.
install_torch() {
    local needs
    step 'torch' pip_install --no-deps torch
    needs=$("$PYTHON" -m pip show torch | grep '^Requires:')
    if [[ $needs =~ \ (cuda|nvidia)- ]] && ! "$PYTHON" -c 'import torch' 2>/dev/null; then
        need_free_gb "$FREE_GB_CUDA" 'torch with its CUDA libraries'
    fi
    step 'what torch needs, and build tools' pip_install torch "${BUILD_TOOLS[@]}"
}

# Which operators mmcv is built with, and why: 'cuda CUDA_HOME REASON' or 'cpu - REASON'.
choose_operators() {
    "$PYTHON" - 2>/dev/null <<'EOF'
import os
import re
import subprocess
from pathlib import Path

import torch
from torch.utils.cpp_extension import CUDA_HOME


def release(home):
    """Version of a CUDA toolkit that can compile, or None."""
    if not home or not (Path(home) / 'include' / 'cuda_runtime.h').is_file():
        return None
    try:
        text = subprocess.run([f'{home}/bin/nvcc', '--version'], capture_output=True, text=True).stdout
    except OSError:
        return None
    found = re.search(r'release (\d+\.\d+)', text)
    return found and found[1]


version = torch.version.cuda
if version is None:
    print(f'cpu - torch {torch.__version__} has no CUDA')
elif not torch.cuda.is_available() and os.environ.get('FORCE_CUDA') != '1':
    print('cpu - no GPU is visible')
else:
    homes = (CUDA_HOME, f'/usr/local/cuda-{version}', '/usr/local/cuda')
    found = {release(home): home for home in reversed(homes)}
    if version in found:
        print(f'cuda {found[version]} nvcc {version} matches torch')
    else:
        have = ', '.join(filter(None, found)) or 'none'
        print(f'cpu - torch needs a CUDA toolkit {version} to build CUDA operators with; found: {have}')
EOF
}

jobs() {
    local cores kb limit
    cores=$(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN)
    kb=$(awk '/^MemAvailable/ {print $2}' /proc/meminfo 2>/dev/null) || kb=
    limit=$(cat /sys/fs/cgroup/memory.max 2>/dev/null) || limit=max
    [[ $limit == max ]] || ((limit / 1024 >= ${kb:-0})) || kb=$((limit / 1024))
    [[ -z $kb ]] || ((kb / 1024 / JOB_MB >= cores)) || cores=$((kb / 1024 / JOB_MB))
    echo $((cores > 0 ? cores : 1))
}

build_mmcv() (  # cpu|cuda CUDA_HOME [PIP-OPTION...]; a subshell: the flags are for mmcv alone
    local kind=$1 home=$2
    shift 2
    export MAX_JOBS=${MAX_JOBS:-$(jobs)} CFLAGS=${CFLAGS--g0 -O1} CXXFLAGS=${CXXFLAGS--g0 -O1}
    if [[ $kind == cuda ]]; then
        FORCE_CUDA=1 CUDA_HOME=$home pip_install -v --no-build-isolation "$@" onedl-mmcv
    else
        # mmcv compiles CUDA sources, and dies without nvcc, as soon as torch sees a GPU.
        FORCE_CUDA=0 CUDA_VISIBLE_DEVICES='' pip_install -v --no-build-isolation "$@" onedl-mmcv
    fi
)

install_mmcv() {
    local kind home reason fault code=0
    read -r kind home reason < <(choose_operators) || fail "import torch fails in $VENV; remove that folder and run again"
    say "  mmcv's operators will be built for ${kind/cpu/the CPU}: $reason"
    step 'mmcv (compiling it takes minutes, once)' build_mmcv "$kind" "$home"
    fault=$("$PYTHON" -c 'import cv2' 2>&1) || true
    if [[ $fault == *'cannot open shared object file'* ]]; then
        step 'OpenCV without display libraries (this machine has none)' \
            pip_install --force-reinstall --no-deps opencv-python-headless
    fi
    fault=$(mmcv_works "$kind" 2>&1) || code=$?
    if ((code == 3)); then
        # pip's cache does not know which torch a wheel was built for, nor with which operators.
        say "  mmcv's operators are not usable ($(tail -n 1 <<<"$fault")); building again past pip's cache"
        step 'mmcv, built again' build_mmcv "$kind" "$home" --no-cache-dir --force-reinstall --no-deps
        code=0
        fault=$(mmcv_works "$kind" 2>&1) || code=$?
    fi
    ((code == 0)) || fail "mmcv does not work: $(tail -n 1 <<<"$fault") (build output: $LOG)"
}

# The index's torchvision is built for CUDA. Beside a CPU build of torch its import fails, unless mmbackbones comes first.
put_mmbackbones_before_torchvision() {
    local site hook fault
    site=$("$PYTHON" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
    hook=$site/mmbackbones_torchvision
    rm -f "$hook.pth" "$hook.py"
    fault=$("$PYTHON" -c 'import torchvision' 2>&1) || true
    [[ $fault == *'operator torchvision::nms does not exist'* ]] || return 0
    say "  torchvision's compiled operators do not match this torch: mmbackbones will stand in ($hook.pth)"
    cp "$ROOT/mmbackbones/torchvision_hook.py" "$hook.py"
    echo 'import mmbackbones_torchvision' >"$hook.pth"
}

# On its first import yapf, which prints configs, writes its grammar to the user's cache. Of two processes that do so at
# once, such as test workers or ranks of a training, one reads half a file and fails.
write_caches() {
    "$PYTHON" -c 'import yapf' >>"$LOG" 2>&1 || fail "yapf does not work (output: $LOG)"
}

install() {
    local start=$SECONDS
    say "setting up $VENV (output of pip: $LOG)"
    rm -f "$STAMP"
    : >"$LOG"
    step 'virtual environment' make_venv
    install_torch
    install_mmcv
    step 'everything else' pip_install --no-build-isolation -r "$ROOT/requirements.txt"
    step 'this project, editable' pip_install --no-build-isolation --no-deps -v -e "$ROOT"
    compgen -G "$ROOT/mmbackbones/ops/selective_scan/_scan_*.so" >/dev/null ||
        say "  the C++ selective scan did not compile (see $LOG); a slower one takes its place"
    put_mmbackbones_before_torchvision
    write_caches
    state >"$STAMP.new" || fail "the environment is incomplete after installing (output: $LOG)"
    mv "$STAMP.new" "$STAMP"
    say "environment ready after $((SECONDS - start)) s"
}

main() {
    case "${1-}" in
        '' | --print-python) ;;
        *) fail "unknown argument $1 (only --print-python is known)" ;;
    esac
    if ! ready; then
        preflight
        one_at_a_time
        ready || install
    fi
    [[ ${1-} != --print-python ]] || printf '%s\n' "$PYTHON"
}

main "$@"
