#!/bin/sh
# Runs a command while every core has something to do at the lowest priority, so that none sleeps: a core of a virtual machine
# that has to be woken may come to a dispatch of a software driver when the other cores are through with it.
#
#     benches/awake.sh cargo run --release --example throughput -- --adapter llvmpipe
set -eu

spinners=
# Not to be left behind by an interrupt.
trap 'kill $spinners 2>/dev/null || true' EXIT
for _ in $(seq "$(nproc)"); do
    chrt --idle 0 sh -c 'while :; do :; done' &
    spinners="$spinners $!"
done
"$@"
