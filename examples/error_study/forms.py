#!/usr/bin/env python3
"""What the form of y costs by itself: roundings of y where the statistics are exact, with and without SiLU.

The channel is the one of the error study where PyTorch is nearest to the truth: a mean of one deviation, gamma = 2.5, beta = -1.25.
Errors as in the study: the worst of all elements, over the largest |y|, in units of 2^-24. Needs no package.
"""

import math
import random
import statistics
import struct

BINARY32 = struct.Struct("f")
GAMMA, BETA = 2.5, -1.25


def f(value):
    """Rounded to f32."""
    return BINARY32.unpack(BINARY32.pack(value))[0]


def silu(t):
    decayed = f(math.exp(-abs(t)))
    return f(f(t * (1.0 if t > 0 else decayed)) / f(1 + decayed))


random.seed(0)
errors = {}
for _ in range(20):
    inputs = [f(1 + math.sqrt(3) * random.uniform(-1, 1)) for _ in range(1 << 13)]
    mean = math.fsum(inputs) / len(inputs)
    inverse = 1 / math.sqrt(math.fsum((x - mean) ** 2 for x in inputs) / len(inputs) + 1e-5)
    pivot = sorted(inputs[:3])[1]
    offset, rounded = f(mean - pivot), f(inverse)
    scale = f(rounded * GAMMA)
    shift = f(BETA - f(mean) * scale)
    centre = f(mean)
    beta = f(f(centre - mean) * scale + BETA)
    half = 2.0 ** -(math.frexp(rounded)[1])
    short = math.trunc(centre / half) * half
    rest = f(f((short - centre) * scale) + beta)
    forms = {
        "((x - pivot) - offset) * r * gamma + beta": lambda x: f(f(f(f(f(x - pivot) - offset) * rounded) * GAMMA) + BETA),
        "(x - centre) * scale + beta', fused": lambda x: f(f(x - centre) * scale + beta),
        "(x - centre) * scale + beta', not fused": lambda x: f(f(f(x - centre) * scale) + beta),
        "(x - short centre) * scale + beta'', fused": lambda x: f(f(x - short) * scale + rest),
        "(x - short centre) * scale + beta'', not fused": lambda x: f(f(f(x - short) * scale) + rest),
        "x * scale + shift, fused": lambda x: f(x * scale + shift),
        "x * scale + shift, not fused": lambda x: f(f(x * scale) + shift),
        "in f64, rounded once": lambda x: f((x - mean) * inverse * GAMMA + BETA),
    }
    truth = [(x - mean) * inverse * GAMMA + BETA for x in inputs]
    activated = [t / (1 + math.exp(-t)) for t in truth]
    for name, form in forms.items():
        results = [form(x) for x in inputs]
        for activation, got, expected in (("", results, truth), (", SiLU", [silu(t) for t in results], activated)):
            error = max(abs(a - b) for a, b in zip(got, expected)) / max(map(abs, expected))
            errors.setdefault(name + activation, []).append(error * 2**24)
for name, found in errors.items():
    print(f"{name}: median {statistics.median(found):.2f}, worst {max(found):.2f}")
