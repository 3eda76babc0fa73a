#!/usr/bin/env python3
"""The errors of PyTorch's CPU kernels on the inputs of the error study.

    python3 examples/error_study/pytorch.py [--longest LOG2] examples/error_study/pytorch.csv

Needs torch and numpy. The inputs are those of `study/data.rs`, made here a second time (a digest of them stands in every line, which
the study compares with its own); the truth is computed here too, in f64 around each channel's nominal mean; an error is what
`study/measure.rs` says. f16 and bf16 tensors go with float32 parameters, as under mixed precision.
"""

import argparse
import datetime
import platform
import sys

import numpy as np
import torch
import torch.nn.functional as F

EPSILON, MOMENTUM, SAMPLES = 1e-5, 0.1, 8
DEVIATION = 0.5773502691896258
TYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
ROUNDOFF = {"f32": 2.0**-24, "f16": 2.0**-11, "bf16": 2.0**-8}
QUANTITIES = [
    "y", "mean", "inverse_deviation", "running_mean", "running_variance", "dx", "dgamma", "dbeta",
    "inference", "frozen_dx", "frozen_dgamma", "frozen_dbeta",
]  # fmt: skip
ACTIVATIONS = {
    "silu": (F.silu, torch.ops.aten.silu_backward.default),
    "gelu": (F.gelu, torch.ops.aten.gelu_backward.default),
}


def noise(start, count):
    z = np.arange(start, start + count, dtype=np.uint64)
    z *= np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in [(30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)]:
        z ^= z >> np.uint64(shift)
        z *= np.uint64(factor)
    z ^= z >> np.uint64(31)
    return (z >> np.uint64(40)).astype(np.float64) / 2.0**23 - 1.0


class Case:
    def __init__(self, element, arrangement, variant, ratio, length):
        self.element, self.arrangement, self.variant = element, arrangement, variant
        self.ratio, self.length = ratio, length
        self.count = 1 << length
        self.channels = 4 if length <= 18 else 2 if length <= 22 else 1
        self.segments = 2 if variant == "segments" else 1
        steps = self.count // SAMPLES
        # As stored; channels along the last but one axis or the last one.
        self.stored = {
            "first": (SAMPLES, self.channels, steps),
            "last": (SAMPLES, steps, self.channels),
            "matrix": (self.count, self.channels),
        }[arrangement]

    def instances(self, stored):
        """(segments, channels, elements) of an array as stored."""
        if self.arrangement == "matrix":
            return np.moveaxis(stored, 1, 0)[None]
        channels_first = stored if self.arrangement == "first" else np.moveaxis(stored, 2, 1)
        cut = channels_first.reshape(self.segments, -1, *channels_first.shape[1:])
        return np.moveaxis(cut, 2, 1).reshape(self.segments, self.channels, -1)

    def shaped(self, tensor):
        """As PyTorch has it: the same memory, channels along the second axis."""
        tensor = tensor.view(self.stored)
        if self.arrangement == "last":
            return tensor.unsqueeze(2).permute(0, 3, 1, 2)
        return tensor

    def back(self, tensor):
        """An array as stored, of the values in f64."""
        if self.arrangement == "last":
            tensor = tensor.permute(0, 2, 3, 1).squeeze(2)
        return tensor.reshape(self.stored).to(torch.float64).numpy()


def inputs(case):
    means = np.array([(1 if c % 2 == 0 else -1) * case.ratio * DEVIATION for c in range(case.channels)])
    total = case.count * case.channels
    of_x = noise(0, total)
    g = 0.25 + noise(1 << 40, total) + 0.5 * of_x
    broadcast = means[:, None] if case.arrangement == "first" else means
    x = (of_x.reshape(case.stored) + broadcast).reshape(-1)
    kind = TYPES[case.element]
    x, g = (torch.from_numpy(values.astype(np.float32)).to(kind) for values in (x, g))
    c = np.arange(case.channels)
    vectors = [1 + 0.5 * c, 0.25 - 0.5 * c, means + 0.05, np.full(case.channels, 0.4)]
    return means, x, g, [torch.from_numpy(values.astype(np.float32)) for values in vectors]


def digest(x, g):
    def total(values, first):
        bits = values.to(torch.float32).numpy().view(np.uint32).astype(np.uint64)
        bits *= np.arange(first, first + 2 * len(bits), 2, dtype=np.uint64)
        return int(bits.sum(dtype=np.uint64))

    return (total(x, 1) + total(g, 3)) % 2**64


def theirs(case, x, g, vectors):
    """What PyTorch makes of it, in the order of QUANTITIES; a sub-batch after the other."""
    gamma, beta, running_mean, running_variance = vectors
    updated = [running_mean.clone(), running_variance.clone()]
    forward, backward = ACTIVATIONS.get(case.variant, (None, None))
    pieces, dgamma, dbeta = [], 0, 0
    x, g = case.shaped(x), case.shaped(g)
    for part_x, part_g in zip(x.chunk(case.segments), g.chunk(case.segments)):
        t, mean, inverse = torch.native_batch_norm(part_x, gamma, beta, *updated, True, MOMENTUM, EPSILON)
        h = backward(part_g, t) if backward else part_g
        dx, part_dgamma, part_dbeta = torch.ops.aten.native_batch_norm_backward(
            h, part_x, gamma, *updated, mean, inverse, True, EPSILON, [True, True, True]
        )
        dgamma, dbeta = dgamma + part_dgamma, dbeta + part_dbeta
        pieces.append((forward(t) if forward else t, mean, inverse, dx))
    y, mean, inverse, dx = (torch.cat(values) for values in zip(*pieces))
    results = [y, mean, inverse, *updated, dx, dgamma, dbeta]
    if case.segments == 1:
        t, none, nothing = torch.native_batch_norm(x, *vectors, False, MOMENTUM, EPSILON)
        h = backward(g, t) if backward else g
        gradients = torch.ops.aten.native_batch_norm_backward(
            h, x, gamma, running_mean, running_variance, none, nothing, False, EPSILON, [True, True, True]
        )
        results += [forward(t) if forward else t, *gradients]
    return results


def wide(case, values):
    return case.instances(values.view(case.stored).to(torch.float64).numpy())


def worst(error, scale, unit):
    with np.errstate(invalid="ignore", divide="ignore"):
        relative = np.where(error == 0, 0, error / scale)
    relative = np.where(np.isnan(relative), np.inf, relative)
    return float(relative.max()) / unit


def errors(case, means, x, g, vectors, got):
    """Of `got`, which has PyTorch's results in the order of QUANTITIES, against f64 truth."""
    unit = ROUNDOFF[case.element]
    gamma, beta, running_mean, running_variance = (v.numpy().astype(np.float64) for v in vectors)
    centred = wide(case, x) - means[:, None]
    g = wide(case, g)
    m = case.count // case.segments
    # Twice, since what bf16 and f16 hold may lie far from the nominal mean.
    offset = centred.mean(axis=2)
    offset += (centred - offset[..., None]).mean(axis=2)
    variance = ((centred - offset[..., None]) ** 2).mean(axis=2)
    inverse = 1 / np.sqrt(variance + EPSILON)
    activation = torch_f64(case.variant)
    found = {}

    def tensor(name, truth):
        value = case.instances(case.back(got[QUANTITIES.index(name)]))
        error = np.abs(value - truth).max(axis=(0, 2))
        found[name] = worst(error, np.abs(truth).max(axis=(0, 2)), unit)

    def vector(name, truth, scale, shift=0.0):
        value = got[QUANTITIES.index(name)].to(torch.float64).numpy().reshape(truth.shape) - shift
        found[name] = worst(np.abs(value - truth), np.abs(scale), 2.0**-24)

    def through(x_hat, h_of, frozen, names):
        y, slope = activation(gamma[:, None] * x_hat + beta[:, None])
        tensor(names[0], y)
        del y
        h = g * slope if slope is not None else g
        sums = h.sum(axis=2), (h * x_hat).sum(axis=2)
        if frozen:
            dx = gamma[:, None] * h_of[..., None] * h
        else:
            dx = h - (sums[0] / m)[..., None] - x_hat * (sums[1] / m)[..., None]
            dx *= gamma[:, None] * h_of[..., None]
        tensor(names[1], dx)
        del dx
        absolute = np.abs(g).sum(axis=(0, 2))
        scale = (np.abs(g) * np.maximum(1, np.abs(x_hat))).sum(axis=(0, 2)) if frozen else absolute
        vector(names[2], sums[1].sum(axis=0), scale)
        vector(names[3], sums[0].sum(axis=0), absolute)

    vector("mean", offset, 1 / inverse, means)
    vector("inverse_deviation", inverse, inverse)
    for segment in range(case.segments):
        running_mean = (1 - MOMENTUM) * running_mean + MOMENTUM * (means + offset[segment])
        running_variance = (1 - MOMENTUM) * running_variance + MOMENTUM * variance[segment] * m / (m - 1)
    vector("running_mean", running_mean, running_mean)
    vector("running_variance", running_variance, running_variance)
    x_hat = (centred - offset[..., None]) * inverse[..., None]
    through(x_hat, inverse, False, ["y", "dx", "dgamma", "dbeta"])
    if case.segments == 1:
        recorded_mean, recorded_variance = (v.numpy().astype(np.float64) for v in vectors[2:])
        inverse = 1 / np.sqrt(recorded_variance + EPSILON)[None]
        del x_hat
        x_hat = (centred + (means - recorded_mean)[:, None]) * inverse[..., None]
        through(x_hat, inverse, True, ["inference", "frozen_dx", "frozen_dgamma", "frozen_dbeta"])
    return found


def torch_f64(variant):
    """An activation in f64, with its derivative."""
    if variant not in ACTIVATIONS:
        return lambda t: (t, None)
    forward, backward = ACTIVATIONS[variant]

    def both(t):
        t = torch.from_numpy(t)
        return forward(t).numpy(), backward(torch.ones_like(t), t).numpy()

    return both


def grid(longest):
    for element in ["f32", "f16", "bf16"]:
        for variant in ["whole", "segments", "silu", "gelu"]:
            for arrangement in ["first", "last", "matrix"]:
                for length in [6, 10, 14, 18, 22, 26]:
                    for decade in range(8 if element == "f32" else 5):
                        case = Case(element, arrangement, variant, 10.0**decade, length)
                        if length > longest or (arrangement != "first" and case.channels == 1):
                            continue
                        if variant != "whole" and (arrangement == "matrix" or length > 22):
                            continue
                        every = length <= 18 or (element == "f32" and variant == "whole")
                        if not every and decade not in [0, 2, 4, 7]:
                            continue
                        if variant in ACTIVATIONS and (length > 18 or decade % 3 != 0):
                            continue
                        yield decade, case


def processor():
    with open("/proc/cpuinfo") as lines:
        names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("file")
    parser.add_argument("--longest", type=int, default=26)
    arguments = parser.parse_args()
    with open(arguments.file, "w") as file:
        today = datetime.date.today().isoformat()
        print(f"# PyTorch {torch.__version__} on the CPU ({processor()}, {torch.backends.cpu.get_cpu_capability()},", file=file)
        print(f"# {torch.get_num_threads()} threads), {today}, by examples/error_study/pytorch.py:", file=file)
        print("# torch.native_batch_norm and its backward. Errors in roundoffs, see examples/error_study/study/measure.rs.", file=file)
        print("element,arrangement,variant,ratio_log10,length_log2,inputs," + ",".join(QUANTITIES), file=file)
        for decade, case in grid(arguments.longest):
            means, x, g, vectors = inputs(case)
            found = errors(case, means, x, g, vectors, theirs(case, x, g, vectors))
            values = ",".join(f"{found[name]:.5g}" if name in found else "" for name in QUANTITIES)
            key = f"{case.element},{case.arrangement},{case.variant},{decade},{case.length}"
            print(f"{key},{digest(x, g):016x},{values}", file=file, flush=True)
            print(key, values, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
