#!/usr/bin/env bash
# Everything that must hold before a change is merged, on two cores in less than an hour.
#
#   bash tools/run_tests.sh [--fast | --full] [--install-browser] [pytest arguments]
#
# Set-up, static checks, unit tests, end-to-end tests, then the quickstart with its gate. --fast stops after the unit tests;
# --full adds the tests that are too costly for CI and leaves the figures of trainings in work_dirs/figures. Pytest
# arguments (-k scan, tests/ops) go to every pytest run, and a selection that is empty is then no fault. A failed phase
# does not stop the next one. The report is tested in Chromium. Where that is missing and apt has it, root is asked on a
# terminal whether to install it; --install-browser (or MMBACKBONES_INSTALL_BROWSER=1) is a yes. Else its tests are skipped,
# with the reason. Exit code 0: all passed.
# Last line: 'N passed, N failed', where each static check and the quickstart count as one.
set -uo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$ROOT" || exit 1
PHASES=()
PASSED=0
FAILED=0

phase() {  # NAME COMMAND...: run it, note its result and time
    local name=$1 start=$SECONDS code=0 result=passed
    shift
    printf '\n=== %s ===\n' "$name"
    "$@" </dev/null || code=$?
    if ((code)); then
        result="FAILED (exit code $code)"
    fi
    PHASES+=("$(printf '%-20s %5d s  %s' "$name" $((SECONDS - start)) "$result")")
    return "$code"
}

check() {  # NAME COMMAND...: a phase that counts as one test
    if phase "$@"; then
        PASSED=$((PASSED + 1))
    else
        FAILED=$((FAILED + 1))
    fi
}

count() {  # WORD TEXT: the number before WORD in pytest's closing line
    local number
    number=$(grep -oE "[0-9]+ $1" <<<"$2" | tail -n 1)
    echo $((${number%% *} + 0))
}

run_pytest() {  # MARKERS ARGUMENTS...
    local markers=$1 code
    shift
    OMP_NUM_THREADS=1 "$PYTHON" -m pytest -n 2 -m "$markers" --durations=10 "$@" 2>&1 | tee "$OUTPUT"
    code=${PIPESTATUS[0]}
    ((code == 5 && ARGUMENTS > 0)) && code=0
    return "$code"
}

lint() {
    local code=0
    "$PYTHON" -m ruff check || code=$?
    "$PYTHON" -m ruff format --check || code=$?
    return "$code"
}

lint_imports() { "$PYTHON" -c 'from importlinter.cli import lint_imports_command; lint_imports_command()' --no-logo; }

tests() {  # NAME MARKERS ARGUMENTS...: a phase that counts as the tests it ran
    local name=$1 closing failed code=0
    shift
    phase "$name" run_pytest "$@" || code=$?
    closing=$(tail -n 1 "$OUTPUT")
    failed=$(($(count failed "$closing") + $(count error "$closing")))
    ((code == 0 || failed > 0)) || failed=1
    PASSED=$((PASSED + $(count passed "$closing")))
    FAILED=$((FAILED + failed))
}

has_browser() { command -v chromium && command -v chromedriver; } >/dev/null

may_install() {  # WHAT: by option or variable, or by an answer on the terminal
    local answer=
    [[ ${MMBACKBONES_INSTALL_BROWSER-} == 1 ]] && return
    [[ -t 0 && -t 2 ]] || return
    read -r -p "Install $1 with apt-get, for the tests of the report? [y/N] " answer
    [[ $answer == [yY]* ]]
}

apt_has_browser() { apt-get -qq -o APT::Update::Error-Mode=any update && apt-cache show chromium &>/dev/null; }

install_browser() { apt-get -qq install -y --no-install-recommends chromium chromium-driver >/dev/null && has_browser; }

# A test that needs the browser fails without one where it was to be installed; elsewhere it is skipped.
browser() {
    if has_browser; then
        export MMBACKBONES_REQUIRE_BROWSER=1
    elif ((EUID != 0)) || ! command -v apt-get >/dev/null; then
        echo 'No Chromium, and not root on Debian: the tests of the report in a browser will be skipped.'
    elif ! may_install 'chromium and chromium-driver'; then
        echo 'No Chromium: the tests of the report in a browser will be skipped; --install-browser installs it with apt-get.'
    elif apt_has_browser; then
        export MMBACKBONES_REQUIRE_BROWSER=1
        phase 'browser' install_browser || FAILED=$((FAILED + 1))
    else
        echo 'No Chromium, and apt-get has none: the tests of the report in a browser will be skipped.'
    fi
}

summary() {
    printf '\n=== summary, %d s ===\n' "$SECONDS"
    printf '%s\n' "${PHASES[@]}"
    printf '%d passed, %d failed\n' "$PASSED" "$FAILED"
}

extent=usual
while (($#)); do
    case "$1" in
        --fast | --full) extent=${1#--} ;;
        --install-browser) MMBACKBONES_INSTALL_BROWSER=1 ;;
        *) break ;;
    esac
    shift
done
[[ $extent == full ]] && export MMBACKBONES_FIGURES=$ROOT/work_dirs/figures
ARGUMENTS=$#
OUTPUT=$(mktemp)
trap 'rm -f "$OUTPUT"' EXIT

browser  # first, because it may ask
phase 'set-up' bash tools/setup_env.sh || exit
PYTHON=$(bash tools/setup_env.sh --print-python 2>/dev/null)
check 'ruff' lint
check 'types' "$PYTHON" -m mypy
check 'import floors' lint_imports
check 'generated tables' "$PYTHON" tools/make_tables.py --check
tests 'unit tests' 'not slow and not full' --dist worksteal "$@"
if [[ $extent != fast ]]; then
    tests 'end-to-end tests' 'slow and not full' --dist loadscope "$@"
    check 'quickstart' bash tools/quickstart.sh
fi
if [[ $extent == full ]]; then
    tests 'costly tests' 'full' --dist loadscope "$@"
fi
summary
((FAILED == 0))
