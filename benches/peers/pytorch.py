#!/usr/bin/env python3
"""Times PyTorch's batch norm, native and cuDNN, on the shapes of `throughput`, and prints it beside ours.

    cargo run --release --example throughput -- --json ours.json
    python3 benches/peers/pytorch.py --ours ours.json [--json torch.json] [--shape N,C,H,W] [--element f32|f16|bf16]
        [--quick]

Needs PyTorch; runs on its GPU if there is one, else on the CPU, which says nothing of a GPU. Eager mode, channels
first and last, tensors in f32 unless `--element` says otherwise, weights and statistics in f32; training forward,
backward (all gradients, without accumulation) and inference, each timed alone with CUDA events over enough
repetitions, medians of nine rounds. Two sets of tensors are taken in turn, as `throughput` does. "native" and "cudnn"
are PyTorch's own kernels with cuDNN switched off and on; a shape that cuDNN does not serve is run by the native
kernels in both.
"""

import argparse
import json
import statistics
import time

import torch

SHAPES = [
    (32, 64, 56, 56), (32, 256, 14, 14), (32, 512, 7, 7), (8, 64, 112, 112), (1024, 512, 1, 1),
    (16, 3, 224, 224), (256, 32, 8, 8), (256, 2048, 1, 1), (20, 6, 256, 256), (1, 2048, 7, 7),
    (32, 64, 112, 112), (32, 256, 56, 56), (32, 128, 56, 56), (32, 128, 28, 28), (32, 512, 28, 28),
    (32, 256, 28, 28), (32, 1024, 14, 14), (32, 512, 14, 14), (32, 2048, 7, 7),
]
ELEMENTS = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
# Tensors that must be read or written once.
IDEAL_TENSORS = {"training": 2, "inference": 2, "backward": 3}


class Timer:
    """Milliseconds of one call, from as many repetitions as make a round of the wanted length."""

    def __init__(self, device, rounds, target_ms):
        self.device, self.rounds, self.target_ms = device, rounds, target_ms

    def once(self, call, repetitions):
        if self.device.type == "cuda":
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            for repetition in range(repetitions):
                call(repetition)
            end.record()
            end.synchronize()
            return start.elapsed_time(end) / repetitions
        start = time.perf_counter()
        for repetition in range(repetitions):
            call(repetition)
        return (time.perf_counter() - start) * 1e3 / repetitions

    def median(self, call):
        self.once(call, 3)
        repetitions = max(2, int(self.target_ms / max(self.once(call, 2), 1e-4)))
        samples = sorted(self.once(call, repetitions) for _ in range(self.rounds))
        quartile = max(1, len(samples) // 4)
        middle = statistics.median(samples)
        return middle, (samples[-1 - quartile] - samples[quartile]) / middle


def operations(shape, memory_format, element, device):
    """The calls by name. Each takes a repetition, whose parity picks a set of tensors."""
    channels = shape[1]
    sets = []
    for seed in range(2):
        generator = torch.Generator(device="cpu").manual_seed(seed)

        def tensor():
            values = torch.randn(shape, generator=generator).to(device=device, dtype=element)
            return values.contiguous(memory_format=memory_format)

        sets.append((tensor(), tensor()))
    weight = torch.ones(channels, device=device)
    bias = torch.zeros(channels, device=device)
    mean, variance = torch.zeros(channels, device=device), torch.ones(channels, device=device)
    saved = [torch.ops.aten._batch_norm_with_update(x, weight, bias, mean, variance, 0.1, 1e-5) for x, _ in sets]

    def training(repetition):
        x, _ = sets[repetition % 2]
        torch.ops.aten._batch_norm_with_update(x, weight, bias, mean, variance, 0.1, 1e-5)

    def inference(repetition):
        x, _ = sets[repetition % 2]
        torch.ops.aten._batch_norm_no_update(x, weight, bias, mean, variance, 0.1, 1e-5)

    def backward(repetition):
        (x, g), (_, batch_mean, batch_inverse, reserve) = sets[repetition % 2], saved[repetition % 2]
        torch.ops.aten.batch_norm_backward(
            g, x, weight, mean, variance, batch_mean, batch_inverse, True, 1e-5, [True, True, True], reserve
        )

    return {"training": training, "inference": inference, "backward": backward}


def measure(arguments, device):
    timer = Timer(device, 3 if arguments.quick else 9, 3.0 if arguments.quick else 10.0)
    rows = []
    backends = ["native", "cudnn"] if torch.backends.cudnn.is_available() and device.type == "cuda" else ["native"]
    for shape in arguments.shape or SHAPES:
        for layout, memory_format in [("first", torch.contiguous_format), ("last", torch.channels_last)]:
            for name in arguments.element or ["f32"]:
                element = ELEMENTS[name]
                for backend in backends:
                    with torch.backends.cudnn.flags(enabled=backend == "cudnn"), torch.no_grad():
                        for op, call in operations(shape, memory_format, element, device).items():
                            ms, spread = timer.median(call)
                            size = element.itemsize * shape[0] * shape[1] * shape[2] * shape[3]
                            rows.append({
                                "op": op, "layout": layout, "element": name, "shape": list(shape), "peer": backend,
                                "ms": ms, "spread": spread, "ideal_gbps": IDEAL_TENSORS[op] * size / ms * 1e-6,
                            })
    return rows


def print_beside(rows, ours):
    key = lambda row: (row["op"], row["layout"], row["element"], tuple(row["shape"]))
    # Rows with something fused do more than the peers.
    plain = lambda row: row.get("activation", "identity") == "identity" and not row.get("residual", False)
    own = {key(row): row for row in ours if "ms" in row and plain(row)}
    print(f"{'op':10} {'layout':6} {'element':7} {'shape':19} {'peer':7} {'peer ms':>9} {'ours ms':>9} {'peer/ours':>9}")
    for row in rows:
        mine = own.get(key(row))
        ms, ratio = (f"{mine['ms']:9.4f}", f"{row['ms'] / mine['ms']:9.2f}") if mine else ("-".rjust(9), "-".rjust(9))
        shape = "({},{},{},{})".format(*row["shape"])
        print(f"{row['op']:10} {row['layout']:6} {row['element']:7} {shape:19} {row['peer']:7} {row['ms']:9.4f} {ms} {ratio}")
    print_step(rows, own)


def print_step(rows, own):
    """Forward plus backward against the better of the peers."""
    steps = {}
    for row in rows:
        if row["op"] in ("training", "backward"):
            step = steps.setdefault((row["layout"], row["element"], tuple(row["shape"])), {})
            step[row["peer"]] = step.get(row["peer"], 0.0) + row["ms"]
    compared = []
    for (layout, element, shape), step in steps.items():
        mine = [own.get((op, layout, element, shape)) for op in ("training", "backward")]
        if all(mine):
            compared.append(min(step.values()) / sum(row["ms"] for row in mine))
    if compared:
        ahead = sum(ratio >= 1.0 for ratio in compared)
        print(
            f"\nforward + backward, better peer over ours: median {statistics.median(compared):.2f}, "
            f"least {min(compared):.2f}; ours is ahead in {ahead} of {len(compared)}"
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ours", help="JSON that `throughput` wrote on the same machine")
    parser.add_argument("--json", help="write the rows here")
    parser.add_argument("--shape", action="append", type=lambda text: tuple(int(part) for part in text.split(",")))
    parser.add_argument("--element", action="append", choices=ELEMENTS, help="may be repeated [default: f32]")
    parser.add_argument("--quick", action="store_true", help="three rounds of shorter passes")
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    print(f"PyTorch {torch.__version__}, cuDNN {torch.backends.cudnn.version()}, {name}")
    rows = measure(arguments, device)
    ours = json.load(open(arguments.ours)) if arguments.ours else []
    print_beside(rows, ours)
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump(rows, file, indent=1)


if __name__ == "__main__":
    main()
