#!/bin/sh
# The long form of the tests that kill, cut the power, and damage or break the cache's disk; then a
# report. CRASH=10 does ten times as much, SVOL_CRASH_ROUNDS, SVOL_POWER_LIVES, SVOL_ROT_ROUNDS,
# SVOL_DISK_ROUNDS and STRESS_SECONDS say it one by one; SVOL_CRASH_SEED repeats what was drawn.
set -eu
cd "$(dirname "$0")/.."
times=${CRASH:-1}
log=target/crash.log
# All that the tests make is in there, so that what they leave behind can be told.
TMPDIR=$(mktemp -d -t svol-crash.XXXXXX)
export TMPDIR
trap 'rm -rf "$TMPDIR"' EXIT
: >"$log"

failed=
# Runs a test binary's tests with their output, and notes whether they passed.
run() {
    echo "== $*"
    status=target/crash.status
    { "$@" 2>&1 && echo 0 >"$status" || echo 1 >"$status"; } | tee -a "$log" |
        grep -E '^(test |test result|crash:|power:|rot:|round|cut-|.*compared|.*panicked)' |
        grep -vE '^test result|^round|^cut-' || true
    [ "$(cat "$status")" = 0 ] || failed="$failed ${*#"$cargo"}"
}

cargo=${CARGO:-cargo}
: "${SVOL_CRASH_ROUNDS:=$((40 * times))}" "${SVOL_POWER_LIVES:=$((12 * times))}"
: "${SVOL_ROT_ROUNDS:=$((60 * times))}" "${SVOL_DISK_ROUNDS:=$((20 * times))}"
: "${STRESS_SECONDS:=$((30 * times))}"
export SVOL_CRASH_ROUNDS SVOL_POWER_LIVES SVOL_ROT_ROUNDS SVOL_DISK_ROUNDS STRESS_SECONDS
for test in crash damage behind full stress; do
    run "$cargo" test -p svol-cache --features=failpoints --test "$test" -- --nocapture
done
for test in crash power rot disk; do
    run "$cargo" test -p svol --features=failpoints --test "$test" -- --nocapture
done

echo
echo "== report (all of it is in $log)"
grep -hE '^(crash|power|rot): .*compared' "$log" || true
grep -hE '^[a-z0-9 -]+: [0-9]+ MiB compared' "$log" | sort | uniq -c | sort -rn || true
# What must not be left behind.
left=0
for what in $(grep -o "$TMPDIR[^ ]*" /proc/self/mounts || true) \
    $(losetup --noheadings --output BACK-FILE | grep "$TMPDIR" || true) "$TMPDIR"/*; do
    [ "$what" != "$TMPDIR/*" ] || continue
    echo "left behind: $what"
    left=$((left + 1))
done
echo "left behind: $left mounts, loop devices and directories"
if [ -n "$failed" ] || [ "$left" -gt 0 ]; then
    echo "FAILED:$failed"
    exit 1
fi
echo "all passed"
