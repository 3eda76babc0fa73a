#!/bin/sh
# Runs a command while every core has something to do at the lowest priority, so that none sleeps: a core of a virtual machine
# that has to be woken may come to a dispatch of a software driver when the other cores are through with it.
#
#     benches/awake.sh cargo run --release --example throughput -- --adapter llvmpipe
set -eu

command -v chrt > /dev/null || { echo "awake.sh needs chrt, of util-linux" >&2; exit 1; }
spinners=
# Not to be left behind: dash runs no EXIT trap where a signal ends it, and what runs in the background ignores SIGINT.
trap 'kill $spinners 2>/dev/null || true' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
for _ in $(seq "$(nproc)"); do
    chrt --idle 0 sh -c 'while :; do :; done' &
    spinners="$spinners $!"
done
"$@"
