#!/usr/bin/env python3
"""Counts the instructions that a software driver executes for one run of an operation, beside a copy and a sum.

Where a kernel is bound by instructions, as on lavapipe, a count tells what times on a shared machine cannot: it repeats to
about a thousandth. It needs Valgrind, and the example built: cargo build --release --example throughput

    benches/instructions.py --shape 32,256,14,14 --layout last [--op training --op inference --op backward] [-- ...]

What follows `--` goes to `throughput`, `--element f16` say. A run is counted as the difference between two numbers of
runs, so that compiling does not count. The limits are those of `throughput`: training sum + copy, inference copy, backward
3 sums + copy, backward_frozen 2 sums + copy.
"""

import argparse
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

LIMITS = {"training": (1, 1), "inference": (0, 1), "backward": (3, 1), "backward_frozen": (2, 1)}
ELEMENTS = 20_000_000


def count(arguments, times):
    command = ["valgrind", "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"]
    command += [arguments.binary, "--adapter", "llvmpipe", "--shape", arguments.shape, "--layout", arguments.layout]
    command += [*arguments.extra, "--repeat", str(times)]
    run = subprocess.run(command, capture_output=True, text=True)
    found = re.search(r"I\s+refs:\s+([\d,]+)", run.stderr)
    if run.returncode or not found:
        sys.exit(f"{' '.join(command)}\n{run.stdout}{run.stderr}")
    return int(found.group(1).replace(",", ""))


def measure(arguments, what):
    """Instructions of one run."""
    of = argparse.Namespace(**{**vars(arguments), "extra": arguments.extra + what})
    elements = 1
    for dim in arguments.shape.split(","):
        elements *= int(dim)
    times = max(2, ELEMENTS // elements)
    first, then = pool.map(lambda times: count(of, times), [1, 1 + times])
    return (then - first) / times / elements


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--shape", required=True)
parser.add_argument("--layout", required=True, choices=["first", "last"])
parser.add_argument("--op", action="append", choices=LIMITS)
parser.add_argument("--binary", default="target/release/examples/throughput")
parser.add_argument("extra", nargs="*")
arguments = parser.parse_args()
pool = ThreadPoolExecutor(os.cpu_count())
copy = measure(arguments, ["--yardstick", "copy"])
total = measure(arguments, ["--yardstick", "sum"])
print(f"{arguments.shape} {arguments.layout}, instructions an element: copy {copy:.2f}, sum {total:.2f}", flush=True)
for op in arguments.op or ["training", "inference", "backward"]:
    own = measure(arguments, ["--op", op])
    sums, copies = LIMITS[op]
    print(f"  {op:16} {own:6.2f}, of the limit {own / (sums * total + copies * copy):.2f}", flush=True)
