#!/bin/sh
# All that a GPU is asked for, in one go: is it right, how fast is it, what would be faster, and beside PyTorch.
#
#   benches/gpu.sh OUT [ADAPTER]
#
# ADAPTER is part of an adapter's name [default: the best one]. What is found lands in the folder OUT, a file a step, and
# OUT/summary.txt says how each step went. A step that outlasts its seconds is stopped and the next one begins.
#
# With BINARIES=FOLDER nothing is built: the folder has verify, throughput, tune, and device (the test program that
# `cargo test --release --no-run --test device` names), so that a machine without Rust will do.
# Without PyTorch, or with SKIP_PYTORCH=1, that step is left out. QUICK=1 takes the quick rounds of every measurement.
set -u
cd "$(dirname "$0")/.."
out=${1:?usage: benches/gpu.sh OUT [ADAPTER]}
adapter=${2:-}
mkdir -p "$out"
: >"$out/summary.txt"
say() { echo "$*" | tee -a "$out/summary.txt"; }

if [ -z "${BINARIES:-}" ]; then
    cargo build --release --locked --example verify --example throughput --example tune || exit 1
    BINARIES=target/release/examples
    device=$(cargo test --release --locked --no-run --test device --message-format short 2>&1 |
        sed -n 's/.*(\(target[^)]*device-[^)]*\)).*/\1/p') || exit 1
else
    device=$BINARIES/device
fi
chosen() { if [ -n "$adapter" ]; then "$@" --adapter "$adapter"; else "$@"; fi; }
quick=${QUICK:+--quick}

# step NAME SECONDS COMMAND...
step() {
    name=$1 seconds=$2
    shift 2
    before=$(date +%s)
    chosen timeout "$seconds" "$@" >"$out/$name.txt" 2>&1
    code=$?
    say "$name: exit $code after $(($(date +%s) - before)) s; $(tail -n 1 "$out/$name.txt")"
}

nvidia-smi >"$out/nvidia-smi.txt" 2>&1
step verify 120 "$BINARIES/verify" --cases tests/vectors
step f32 240 "$BINARIES/throughput" $quick --json "$out/f32.json" --plot "$out/f32.svg"
if [ -z "${SKIP_PYTORCH:-}" ] && python3 -c 'import torch' 2>/dev/null; then
    timeout 180 python3 benches/peers/pytorch.py $quick --ours "$out/f32.json" --json "$out/pytorch.json" \
        >"$out/pytorch.txt" 2>&1
    say "pytorch: exit $?; $(tail -n 1 "$out/pytorch.txt")"
fi
step tune 180 "$BINARIES/tune"
for element in f16 bf16; do
    step "$element" 180 "$BINARIES/throughput" --quick --element "$element" --json "$out/$element.json"
done
step growth 120 "$BINARIES/throughput" --growth --budget 90 --json "$out/growth.json"
# Last, because it is the longest: the tests choose adapters by WGPU_ADAPTER_NAME and WGPU_BACKEND.
adapter=
step device 300 "$device"
