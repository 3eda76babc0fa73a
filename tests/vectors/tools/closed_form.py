#!/usr/bin/env python3
"""Writes the golden cases of the source `closed_form`: activations, element types, padding, segments, batch
renormalization, backward from the output and health, which no other source has; `fold.py` and `population.py` have those of
their operations.

    python3 tests/vectors/tools/closed_form.py

Needs mpmath. Inputs are integers from a hash, scaled by powers of two; the truth is evaluated from the formulas below
with 200 bits and rounded to f64, and its gradients are checked against central differences. Writes
`cases/closed.*.safetensors` and replaces the lines of this source in `manifest.json`.
"""
import json
import math
import os

from mpmath import mp, mpf

import fold
import population
from golden import (BITS, CHECK_PRECISION, EPSILON, FOLDER, MOMENTUM, OFFSETS, PRECISION, ROUNDING, SOURCE, U32, Geometry,
                    integers, placement, valid_positions, with_room, write_case)

# The smallest |pre-activation| before a kink: a thousand times what f32 may be off by.
KINK_DISTANCE = 0.004


def case(name, layout, shape, activation, *, dtype="f32", training=True, residual=False, **options):
    return dict(name=name, layout=layout, shape=shape, activation=activation, dtype=dtype, training=training,
                residual=residual, **options)


# Tensors up to 2^101 in size, each channel of one sign.
HUGE = dict(training=False, unit=True, bits=10, offsets=[1024, -1024] * 4, shifts=[6, 6, 0, 0, -50, -50, -90, -90])

CASES = [
    case("silu.nchw.train", "NCHW", [3, 4, 3, 5], "silu"),
    case("silu.nhwc.add.train", "NHWC", [2, 3, 5, 3], "silu", residual=True),
    case("silu.nc.infer", "NC", [23, 5], "silu", training=False),
    case("silu.huge.infer", "NCL", [1, 8, 8], "silu", **HUGE),
    case("gelu.nchw.train", "NCHW", [2, 3, 5, 5], "gelu"),
    case("gelu.nhwc.add.infer", "NHWC", [3, 3, 4, 4], "gelu", training=False, residual=True),
    case("gelu.huge.infer", "NCL", [1, 8, 8], "gelu", **HUGE),
    case("gelu_tanh.ncdhw.add.train", "NCDHW", [2, 3, 2, 3, 4], "gelu_tanh", residual=True),
    case("gelu_tanh.nlc.infer", "NLC", [3, 11, 4], "gelu_tanh", training=False),
    case("gelu_tanh.huge.infer", "NCL", [1, 8, 8], "gelu_tanh", **HUGE),
    case("leaky_relu.nchw.train", "NCHW", [3, 4, 3, 5], "leaky_relu", slope=0.01),
    case("leaky_relu.nhwc.add.train", "NHWC", [2, 3, 5, 3], "leaky_relu", residual=True, slope=0.25),
    case("leaky_relu.nc.infer", "NC", [23, 5], "leaky_relu", training=False, slope=0.1),
    case("f16.gelu.nchw.train", "NCHW", [3, 3, 3, 5], "gelu", dtype="f16"),
    case("f16.silu.nlc.add.infer", "NLC", [3, 9, 4], "silu", dtype="f16", training=False, residual=True),
    case("bf16.plain.nchw.train", "NCHW", [3, 3, 3, 5], None, dtype="bf16"),
    case("bf16.silu.nhwc.add.train", "NHWC", [2, 3, 5, 4], "silu", dtype="bf16", residual=True),
    case("bf16.relu.ncl.add.infer", "NCL", [5, 4, 6], "relu", dtype="bf16", training=False, residual=True),
    case("bf16.leaky_relu.nc.train", "NC", [29, 5], "leaky_relu", dtype="bf16", slope=0.125),
    case("valid.lengths.ncl.relu.train", "NCL", [4, 3, 6], "relu", lengths=[6, 2, 5, 1]),
    case("valid.lengths.nlc.silu.add.train", "NLC", [4, 7, 4], "silu", residual=True, lengths=[4, 7, 0, 9]),
    case("valid.nc.train", "NC", [13, 5], None, masked=True),
    case("valid.nchw.relu.add.train", "NCHW", [3, 3, 3, 5], "relu", residual=True, masked=True),
    case("valid.nhwc.silu.infer", "NHWC", [2, 3, 5, 3], "silu", training=False, masked=True),
    case("valid.nan.nlc.silu.train", "NLC", [3, 6, 4], "silu", lengths=[6, 1, 4], poisoned=True),
    case("f16.valid.ncl.relu.train", "NCL", [4, 3, 8], "relu", dtype="f16", lengths=[8, 3, 5, 2]),
    case("ghost.nchw.relu.train", "NCHW", [6, 3, 3, 4], "relu", sub_batches=3),
    case("ghost.nhwc.add.averaged.train", "NHWC", [4, 3, 2, 5], None, residual=True, sub_batches=2, running="averaged"),
    case("ghost.nc.cumulative.train", "NC", [24, 5], None, sub_batches=3, tracked=4),
    case("ghost.valid.nhwc.averaged.train", "NHWC", [4, 3, 4, 3], "silu", sub_batches=2, running="averaged",
         masked=True),
    case("instance.nchw.silu.train", "NCHW", [3, 4, 4, 3], "silu", sub_batches=3, running="averaged"),
    case("steps.nlc.separate.train", "NLC", [7, 3, 4], "relu", along=1, running="separate"),
    case("steps.nlc.separate.infer", "NLC", [5, 4, 3], "silu", training=False, along=1, running="separate"),
    # Steps that six sequences reach, or five, four, three, two, none.
    case("steps.ncl.valid.separate.train", "NCL", [6, 3, 6], None, along=2, running="separate",
         lengths=[5, 1, 4, 3, 5, 2]),
    case("renorm.nchw.relu.train", "NCHW", [3, 4, 3, 5], "relu", limits=[1.5, 0.125], spread=[1, 16, 4, 2]),
    case("renorm.nlc.silu.add.train", "NLC", [5, 7, 4], "silu", residual=True, limits=[1.625, 0.1875],
         spread=[1, 2, 32, 1]),
    case("renorm.ghost.valid.ncl.train", "NCL", [6, 3, 5], "silu", sub_batches=2, masked=True, limits=[1.5, 0.1875],
         spread=[1, 4, 16]),
    # Steps that three sequences reach, and one.
    case("steps.nlc.one.separate.train", "NLC", [3, 3, 4], "relu", along=1, running="separate", lengths=[1, 3, 1]),
    case("output.nchw.leaky_relu", "NCHW", [3, 4, 3, 5], "leaky_relu", slope=0.25, from_output=True),
    case("output.nhwc.plain", "NHWC", [2, 3, 5, 3], None, from_output=True),
    case("output.nc.leaky_relu", "NC", [23, 5], "leaky_relu", slope=0.01, from_output=True),
    case("output.ghost.valid.ncl.leaky_relu", "NCL", [6, 3, 5], "leaky_relu", slope=0.5, from_output=True, sub_batches=2,
         masked=True),
    case("output.f16.ncl.leaky_relu", "NCL", [5, 3, 7], "leaky_relu", dtype="f16", slope=0.25, from_output=True),
    case("output.exact.f16.nlc.leaky_relu", "NLC", [2, 8, 3], "leaky_relu", dtype="f16", slope=0.25, from_output=True,
         exact=True),
    case("output.exact.bf16.nhwc.plain", "NHWC", [2, 4, 4, 4], None, dtype="bf16", from_output=True, exact=True),
    case("output.exact.bf16.ncl.leaky_relu", "NCL", [4, 4, 4], "leaky_relu", dtype="bf16", slope=0.5, from_output=True,
         exact=True),
    case("health.nchw.guard", "NCHW", [3, 5, 3, 4], None, guard=True,
         faults={(0, 0): "nan", (0, 1): "inf", (0, 2): "constant", (0, 3): "-inf"}),
    case("health.f16.nhwc.cumulative.guard", "NHWC", [2, 3, 3, 5], "silu", dtype="f16", guard=True, tracked=3,
         faults={(0, 1): "inf", (0, 2): "nan", (0, 4): "constant"}),
    case("health.overflow.ncl.guard", "NCL", [5, 4, 7], None, guard=True, only=["save_health", "new_running_mean",
         "new_running_var"], faults={(0, 1): "overflow", (0, 2): "constant"}),
    case("health.ghost.nhwc.guard", "NHWC", [6, 2, 2, 3], None, guard=True, sub_batches=3,
         faults={(1, 0): "nan", (0, 2): "constant", (2, 2): "inf"}),
    case("health.ghost.valid.nchw.averaged.guard", "NCHW", [4, 3, 3, 4], None, guard=True, sub_batches=2,
         running="averaged", masked=True, faults={(1, 0): "-inf", (0, 1): "constant"}),
    case("health.steps.nlc.separate", "NLC", [5, 2, 4], None, along=1, running="separate",
         faults={(0, 0): "nan", (1, 1): "inf", (1, 3): "constant"}),
]
# What a channel of an exact case is normalised to, times 2: of mean 0 and mean square 1.
EXACT = [1, -1] * 5 + [3, -3] * 3
EXACT_WEIGHTS, EXACT_BIASES, EXACT_OFFSETS = [1.25, -0.75, 0.5, -1.5], [0.375, -0.25, 0.5, 0.125], [0, 7, -3, 12]
# The bits of a health report.
NON_FINITE, ZERO_VARIANCE = 1, 2


def inputs(spec, geometry, seed):
    bits = spec.get("bits", BITS[spec["dtype"]])
    cycle = OFFSETS[spec["dtype"]]
    channels, elements = geometry.channels, geometry.elements
    offsets = spec.get("offsets", [cycle[c % len(cycle)] for c in range(channels)])
    shifts = spec.get("shifts", [bits - 3] * channels)
    channel_of = [index // geometry.inner % channels for index in range(elements)]
    x = [math.ldexp(k + offsets[c], -shifts[c]) for k, c in zip(integers(elements, seed, bits), channel_of)]
    tensor = lambda salt, shift: [math.ldexp(k, -shift) for k in integers(elements, seed + salt, bits)]
    vector = lambda salt, shift: [math.ldexp(k, -shift) for k in integers(channels, seed + salt, 8)]
    data = dict(x=x, dy=tensor(1, bits - 1))
    if spec["residual"]:
        data["residual"] = tensor(2, bits - 2)
    if spec.get("unit"):
        # Pre-activations that are the inputs but for epsilon.
        data.update(running_mean=[0.0] * channels, running_var=[1.0] * channels)
    else:
        data.update(weight=vector(3, 6), bias=vector(4, 7))
        if spec.get("from_output"):
            # Of either sign, and none so small that y would not tell x.
            data["weight"] = [math.ldexp((-1)**c * (64 + abs(k)), -6) for c, k in
                              enumerate(integers(channels, seed + 3, 7))]
        recorded = geometry.instances if spec.get("running") == "separate" else channels
        wide = lambda salt, shift: [math.ldexp(k, -shift) for k in integers(recorded, seed + salt, 8)]
        of = lambda index: index // geometry.segments if geometry.by_channel else index % channels
        spread = spec.get("spread", [1] * channels)
        data["running_mean"] = [math.ldexp(offsets[of(i)], -shifts[of(i)]) + m for i, m in enumerate(wide(5, 8))]
        data["running_var"] = [spread[of(i)] * (2.0 + v) for i, v in enumerate(wide(6, 7))]
    if spec.get("exact"):
        data.update(weight=EXACT_WEIGHTS[:channels], bias=EXACT_BIASES[:channels])
        order = integers(elements, seed, 16)
        for c in range(channels):
            members = sorted(geometry.of_channel(c), key=lambda i: order[i])
            assert len(members) % len(EXACT) == 0, spec["name"]
            for place, i in enumerate(members):
                data["x"][i] = EXACT_OFFSETS[c] + math.ldexp(EXACT[place % len(EXACT)], c % 3 - 1)
    valid = valid_positions(spec, geometry, seed)
    if valid is not None:
        data["valid"] = valid
        if spec.get("poisoned"):
            for name in ("x", "dy"):
                padded = lambda index: not valid[geometry.position(index)]
                data[name] = [math.nan if padded(i) else v for i, v in enumerate(data[name])]
    for (segment, channel), fault in spec.get("faults", {}).items():
        members = [i for i in geometry.of_channel(channel) if geometry.segment_of(i) == segment
                   and (valid is None or valid[geometry.position(i)])]
        # 0.75 is exact in every type; squares of deviations near 2^83 are beyond f32.
        if fault == "constant":
            data["x"] = [0.75 if i in members else v for i, v in enumerate(data["x"])]
        elif fault == "overflow":
            data["x"] = [math.ldexp(v, 83) if i in members else v for i, v in enumerate(data["x"])]
        else:
            data["x"][members[-1]] = float(fault)
    return data


def activation(name, slope):
    """f and f'."""
    sigma = lambda t: 1 / (1 + mp.exp(-t))
    Phi = lambda t: mp.erfc(-t / mp.sqrt(2)) / 2
    phi = lambda t: mp.exp(-t * t / 2) / mp.sqrt(2 * mp.pi)
    root, cubic = mp.sqrt(2 / mp.pi), mpf("0.044715")
    v = lambda t: 2 * root * (t + cubic * t**3)
    dv = lambda t: 2 * root * (1 + 3 * cubic * t * t)
    return {
        None: (lambda t: t, lambda t: mpf(1)),
        "relu": (lambda t: max(t, mpf(0)), lambda t: mpf(t > 0)),
        "leaky_relu": (lambda t: t if t > 0 else slope * t, lambda t: mpf(1) if t > 0 else mpf(slope)),
        "silu": (lambda t: t * sigma(t), lambda t: sigma(t) + t * sigma(t) * sigma(-t)),
        "gelu": (lambda t: t * Phi(t), lambda t: Phi(t) + t * phi(t)),
        "gelu_tanh": (lambda t: t * sigma(v(t)), lambda t: sigma(v(t)) + t * dv(t) * sigma(v(t)) * sigma(-v(t))),
    }[name]


def epsilon_of(spec):
    return 0.0 if spec.get("exact") else EPSILON


class Instance:
    """The inputs of one instance, a channel of a segment, and the operations on them."""

    def __init__(self, spec, data, geometry, segment, channel):
        of_channel = geometry.of_channel(channel)
        self.elements = [i for i in of_channel if geometry.segment_of(i) == segment]
        valid = data.get("valid")
        self.indices = [i for i in self.elements if valid is None or valid[geometry.position(i)]]
        self.segments, self.segment, self.channel = geometry.segments, segment, channel
        self.place = geometry.place(segment, channel)
        self.recorded = self.place if spec.get("running") == "separate" else channel
        absent = [mpf(0)] * len(self.indices)
        take = lambda name: [mpf(data[name][i]) for i in self.indices] if name in data else list(absent)
        scalar = lambda name, index, absent: mpf(data[name][index]) if name in data else mpf(absent)
        self.training, self.epsilon = spec["training"], epsilon_of(spec)
        fault = spec.get("faults", {}).get((segment, channel))
        self.fault = None if fault == "constant" else fault
        self.f, self.df = activation(spec["activation"], spec.get("slope"))
        self.x, self.dy, self.z = take("x"), take("dy"), take("residual")
        self.w, self.b = scalar("weight", channel, 1), scalar("bias", channel, 0)
        self.running_mean = scalar("running_mean", self.recorded, 0)
        self.running_var = scalar("running_var", self.recorded, 1)
        self.scale, self.shift = mpf(1), mpf(0)
        if "limits" in spec:
            # Taken once: the gradients hold them.
            r_max, d_max = map(mpf, spec["limits"])
            mean, var = self.statistics()
            inverse = 1 / mp.sqrt(self.running_var + mpf(self.epsilon))
            self.free_scale = mp.sqrt(var + mpf(self.epsilon)) * inverse
            self.free_shift = (mean - self.running_mean) * inverse
            self.scale = min(max(self.free_scale, 1 / r_max), r_max)
            self.shift = min(max(self.free_shift, -d_max), d_max)

    def statistics(self):
        n = len(self.x)
        if not self.training:
            return self.running_mean, self.running_var
        if n == 0:
            return mpf(0), mpf(0)
        mean = mp.fsum(self.x) / n
        return mean, mp.fsum((x - mean)**2 for x in self.x) / n

    def preactivations(self):
        mean, var = self.statistics()
        r = 1 / mp.sqrt(var + mpf(self.epsilon))
        xhat = [(x - mean) * r for x in self.x]
        return xhat, r, [self.w * (h * self.scale + self.shift) + self.b + z for h, z in zip(xhat, self.z)]

    def loss(self):
        return mp.fsum(g * self.f(t) for g, t in zip(self.dy, self.preactivations()[2]))

    def results(self):
        n = len(self.x)
        mean, var = self.statistics()
        xhat, r, t = self.preactivations()
        h = [g * self.df(u) for g, u in zip(self.dy, t)]
        db, dw = mp.fsum(h), mp.fsum(a * b for a, b in zip(h, xhat))
        through = [db / n + u * dw / n for u in xhat] if self.training else [mpf(0)] * n
        out = dict(t=t, xhat=xhat, r=r, mean=mean, var=var, y=[self.f(u) for u in t], dresidual=h, product_sum=dw,
                   dx=[self.w * self.scale * r * (a - b) for a, b in zip(h, through)],
                   dweight=self.scale * dw + self.shift * db, dbias=db)
        if self.training:
            out.update(save_mean=mean, save_invstd=r, save_var=var, save_scale=self.scale, save_shift=self.shift)
            out.update(save_health=mpf(0 if var else ZERO_VARIANCE))
        return out

    def faulty_results(self):
        """Of an instance with an element that is not finite."""
        nan = mpf("nan")
        mean = mp.fsum(self.x) if "inf" in self.fault else nan
        return dict(y=[nan] * len(self.x), mean=mean, var=nan, save_mean=mean, save_invstd=nan, save_var=nan,
                    save_health=mpf(NON_FINITE))

    def check(self, results):
        """The gradients against central differences of the loss."""
        def difference(get, put):
            at, step = get(), mpf(2)**-150 * max(1, abs(get()))
            put(at + step)
            above = self.loss()
            put(at - step)
            below = self.loss()
            put(at)
            return (above - below) / (2 * step)

        def item(values, index):
            return lambda: values[index], lambda value: values.__setitem__(index, value)

        def field(name):
            return lambda: getattr(self, name), lambda value: setattr(self, name, value)

        some = sorted({0, len(self.x) - 1}) if self.x else []
        pairs = [(results["dx"][i], item(self.x, i)) for i in some]
        pairs += [(results["dresidual"][i], item(self.z, i)) for i in some]
        pairs += [(results["dweight"], field("w")), (results["dbias"], field("b"))]
        for gradient, access in pairs:
            numeric = difference(*access)
            assert abs(numeric - gradient) <= mpf(2)**-100 * (1 + abs(gradient)), (gradient, numeric)


# The model of tolerances is that of the collection (its tools/bnref.py, `tolerances`) with h = dy·f'(t) in place of dy.
# An activation adds to it, point by point, with e the error of t:
#   y: sup|f'|·e + (8·|t| + 4)·U    h: |dy|·(sup|f''|·e + 16·U)    suprema over t ± e
# which holds for f32 evaluations of f and f' with WGSL's error of exp, (3 + 2·|x|) ULP, and with 1 + erf rounded to f32.
SMOOTH = ("silu", "gelu", "gelu_tanh")


def error_of_y(spec, t, e):
    if spec["activation"] == "leaky_relu":
        return max(1.0, spec["slope"]) * (e + 2 * U32 * abs(t))
    if spec["activation"] not in SMOOTH:
        return e
    distance = max(-t - e, 0.0)
    own = U32 * (4 + (0.0 if distance > 8 else 8 * abs(t)))
    return min(1.13, (1 + distance) * math.exp(-distance)) * e + own


def error_of_derivative(spec, t, e):
    if spec["activation"] == "leaky_relu":
        return 2 * U32 * max(1.0, spec["slope"])
    if spec["activation"] not in SMOOTH:
        return 0.0
    distance = max(abs(t) - e, 0.0)
    return min(0.8, (2 + distance) * math.exp(-distance)) * e + 16 * U32


# From the output, x̂ = (f⁻¹(y) − b)/w has the error of t and the rounding of y over f', and twelve roundings of its own,
# over w; that is its error in dx, and adds to that of dw, |h| times.
#
# Padding adds exact zeros to a tree of all positions, so that its depth is theirs, and its sums those of what is valid.
# Sums over segments are deeper by log2 of their number, and their errors add up; y, dx and dz have one tolerance a
# channel, the largest of its instances'. Renormalization adds the errors of its scale and shift, as of any product and
# quotient; one that is held by its limit by more than it may be off has only that of the limit.
def tolerances(spec, data, instance, exact):
    """By level and name, for one instance; those of running statistics are made of them by `Recorded`."""
    numbers = {name: [float(v) for v in value] if isinstance(value, list) else float(value)
               for name, value in exact.items()}
    indices, channel = instance.indices, instance.channel
    x, xhat, t, h = [data["x"][i] for i in indices], numbers["xhat"], numbers["t"], numbers["dresidual"]
    mean, var, r = numbers["mean"], numbers["var"], numbers["r"]
    training, n = spec["training"], len(indices)
    if n == 0:
        none = {name: 0.0 for name in ("y", "dx", "dresidual", "dweight", "dbias", "save_mean", "save_var",
                                      "save_health")}
        return {level: none | {"save_invstd": 4 * U32 * r} for level in ("atol", "tight")}
    dy = [abs(data["dy"][i]) for i in indices]
    levels = 2.0 + math.log2(len(instance.elements))
    over_segments = 2.0 + math.log2(len(instance.elements) * instance.segments)
    sums = levels if training else 2.0
    weight = abs(data["weight"][channel]) if "weight" in data else 1.0
    bias = abs(data["bias"][channel]) if "bias" in data else 0.0
    largest = max(map(abs, xhat))
    residual = max((abs(data["residual"][i]) for i in indices), default=0.0) if "residual" in data else 0.0
    deviations = [abs(v - mean) for v in x]
    average = lambda values: math.fsum(values) / len(values)
    size = average([abs(v) for v in x]) if training else max(max(map(abs, x)), abs(mean))
    scale, shift, renormalizes = float(instance.scale), abs(float(instance.shift)), "limits" in spec
    out = {}
    for level in ("atol", "tight"):
        loose = level == "atol"
        e_mean = U32 * sums * size if loose else U32 * sums * average(deviations) + U32 * abs(mean)
        d_mean = e_mean if loose else U32 * sums * average(deviations) + 2.0**-44 * size
        if not training:
            d_mean = U32 * 4.0 * size if loose else U32 * 2.0 * max(deviations)
        e_var = U32 * (6 + 2 * sums) * var + (d_mean**2 if training else 0.0)
        rel_r = min(4 * U32 + 0.5 * e_var / (var + instance.epsilon), 1.0)
        e_xhat = d_mean * r + largest * (rel_r + 4 * U32)
        e_scale = e_shift = 0.0
        if renormalizes:
            difference = abs(mean - float(instance.running_mean))
            inverse = 1 / math.sqrt(float(instance.running_var) + instance.epsilon)
            e_scale = held(instance.free_scale, instance.scale, float(instance.free_scale) * (rel_r + 8 * U32))
            e_shift = held(instance.free_shift, instance.shift,
                           (e_mean + U32 * (abs(mean) + 7 * difference)) * inverse)
        e_t = (weight * (scale * e_xhat + largest * e_scale + e_shift)
               + (6 if renormalizes else 4) * U32 * (bias + weight * (largest * scale + shift) + residual))
        tolerance = {"y": max(error_of_y(spec, u, e_t) for u in t)}
        if training:
            tolerance["save_mean"], tolerance["save_invstd"], tolerance["save_var"] = e_mean, rel_r * r, e_var
            tolerance["save_scale"], tolerance["save_shift"] = e_scale, e_shift
            tolerance["save_health"] = 0.0
        e_h = [g * error_of_derivative(spec, u, e_t) for g, u in zip(dy, t)]
        e_inverted = [0.0] * n
        if spec.get("from_output"):
            slopes = [spec["slope"] if spec["activation"] and u < 0 else 1.0 for u in t]
            e_inverted = [(e_t + error_of_stored(spec, s * u, s * e_t) / s + 12 * U32 * (abs(u) + bias)) / weight
                          for s, u in zip(slopes, t)]
            e_xhat = max(e_inverted)
        products = [a * b for a, b in zip(h, xhat)]
        sum_h, sum_products = math.fsum(map(abs, h)), math.fsum(map(abs, products))
        db, dw = abs(numbers["dbias"]), abs(numbers["product_sum"])

        def errors_of_sums(levels):
            e_db = U32 * levels * sum_h
            e_dw = U32 * (levels + 6) * sum_products
            if not loose:
                run = min(n, 1024)
                statistical = lambda values, total: U32 * (
                    4 * math.sqrt(n * run) * math.sqrt(average([v * v for v in values]))
                    + run * math.sqrt(n) * abs(average(values)) + 8 * total)
                e_db = min(e_db, statistical(h, db))
                e_dw = min(e_dw, statistical(products, dw))
            e_dw += rel_r * dw + d_mean * r * db
            if loose:
                e_dw += 2 * U32 * size * r * sum_h
            e_db += math.fsum(e_h)
            e_dw += math.fsum(e * abs(u) for e, u in zip(e_h, xhat))
            e_dw += math.fsum(abs(a) * e for a, e in zip(h, e_inverted))
            return e_db, e_dw

        e_db, e_dw = errors_of_sums(levels)
        peak = max(map(abs, h))
        if training:
            inside = peak + db / n + largest * dw / n
            e_inside = 4 * U32 * inside + e_db / n + largest * e_dw / n + e_xhat * dw / n
        else:
            inside, e_inside = peak, 2 * U32 * peak
        e_inside += max(e_h)
        e_factor = e_scale / scale + 2 * U32 if renormalizes else 0.0
        tolerance["dx"] = weight * scale * r * (e_inside + (rel_r + 4 * U32 + e_factor) * inside)
        e_db, e_dw = errors_of_sums(over_segments)
        if renormalizes:
            e_dw = scale * e_dw + dw * e_scale + shift * e_db + db * e_shift + 4 * U32 * (scale * dw + shift * db)
        tolerance["dweight"], tolerance["dbias"] = e_dw, e_db
        tolerance["dresidual"] = 2 * U32 * peak + max(e_h)
        out[level] = tolerance
    return out


def error_of_stored(spec, y, e):
    """The rounding of y to the element type; none of one that it holds exactly and that is not off by half a step."""
    rounding = ROUNDING.get(spec["dtype"], 0.0) * abs(y)
    return 0.0 if spec.get("exact") and e < rounding / 4 else rounding


def held(free, limited, error):
    """The error of a value that may be held by a limit."""
    return 2 * U32 * abs(float(limited)) if abs(float(free - limited)) > error else error


class Recorded:
    """A running mean and variance on their way, with their errors by level."""

    def __init__(self, mean, var):
        self.values = [mean, var]
        self.errors = {level: [0.0, 0.0] for level in ("atol", "tight")}

    def take(self, weight, batch, errors, factor=mpf(1)):
        """Takes a batch's mean, and its variance times `factor`."""
        w, f = float(weight), float(factor)
        mean, var = batch
        for level, (e_mean, e_var) in errors.items():
            olds = [abs(float(value)) for value in self.values]
            before = self.errors[level]
            self.errors[level] = [
                (1 - w) * before[0] + (w * e_mean + 3 * U32 * ((1 - w) * olds[0] + w * abs(float(mean)))),
                (1 - w) * before[1] + (w * f * e_var + 4 * U32 * ((1 - w) * olds[1] + w * f * float(var))),
            ]
            if not mp.isfinite(var):
                self.errors[level] = [0.0, 0.0]
        self.values = [(1 - weight) * old + weight * new for old, new in zip(self.values, (mean, var * factor))]


def recorded(spec, data, instances):
    """The running statistics after the batch: `instances` with results and tolerances, segment by segment."""
    policy, tracked = spec.get("running", "in_turn"), spec.get("tracked")
    out = [Recorded(mpf(m), mpf(v)) for m, v in zip(data["running_mean"], data["running_var"])]
    weight = lambda earlier: mpf(MOMENTUM) if tracked is None else mpf(1) / (tracked + earlier + 1)
    by_channel, left_out = {}, set()
    for instance, exact, bounds in instances:
        n = len(instance.x)
        if n < 2:
            continue
        if instance.fault and spec.get("guard"):
            left_out.add(instance.channel)
            continue
        errors = {level: (bound["save_mean"], bound["save_var"]) for level, bound in bounds.items()}
        batch, factor = (exact["mean"], exact["var"]), mpf(n) / (n - 1)
        if policy == "averaged":
            by_channel.setdefault(instance.channel, []).append((batch, errors, factor))
        else:
            earlier = instance.segment if policy == "in_turn" else 0
            out[instance.recorded].take(weight(earlier), batch, errors, factor)
    for channel, taken in by_channel.items():
        # An average with one that is not finite is not finite.
        if channel in left_out:
            continue
        count = len(taken)
        batch = (mp.fsum(b[0] for b, _, _ in taken) / count, mp.fsum(f * b[1] for b, _, f in taken) / count)
        depth = U32 * (1 + math.log2(count))
        errors = {}
        for level in ("atol", "tight"):
            e_mean = math.fsum(e[level][0] + depth * abs(float(b[0])) for b, e, _ in taken) / count
            e_var = math.fsum(float(f) * (e[level][1] + depth * float(b[1])) for b, e, f in taken) / count
            errors[level] = (e_mean, e_var)
        out[channel].take(weight(0), batch, errors)
    return out


def compute(spec, seed):
    geometry = Geometry(spec)
    data = inputs(spec, geometry, seed)
    places = [(segment, channel) for segment in range(geometry.segments) for channel in range(geometry.channels)]
    return geometry, data, [Instance(spec, data, geometry, segment, channel) for segment, channel in places]


def away_from_kinks(spec, seed):
    """The first seed from `seed` on whose pre-activations keep away from 0, and the smallest of them."""
    while True:
        _, _, instances = compute(spec, seed)
        smallest = min(abs(t) for instance in instances for t in instance.preactivations()[2])
        if smallest >= KINK_DISTANCE:
            return seed, float(smallest)
        seed += 16


def check_limits(spec, instances):
    """Limits must hold some channels and leave others, and none may be so near that rounding decides."""
    for free, limited in (("free_scale", "scale"), ("free_shift", "shift")):
        distances = [abs(getattr(i, free) - getattr(i, limited)) for i in instances]
        assert any(distances) and not all(distances), (spec["name"], free)
    r_max, d_max = map(mpf, spec["limits"])
    for instance in instances:
        near = [instance.free_scale - r_max, instance.free_scale - 1 / r_max, abs(instance.free_shift) - d_max]
        assert min(map(abs, near)) > 0.001, spec["name"]


def build(number, spec):
    mp.prec = PRECISION
    seed, smallest = 1000 * (number + 1), None
    if spec["activation"] in ("relu", "leaky_relu"):
        seed, smallest = away_from_kinks(spec, seed)
    geometry, data, instances = compute(spec, seed)
    if "limits" in spec:
        check_limits(spec, instances)
    elementwise = ["y", "dx"] + (["dresidual"] if spec["residual"] else [])
    if "faults" in spec:
        elementwise = ["y"]
    # One value a channel, an instance, or whatever running statistics stand for.
    sums = [f"d{name}" for name in ("weight", "bias") if name in data and "dx" in elementwise]
    statistics, running = [], []
    if spec["training"]:
        statistics = ["save_mean", "save_invstd", "save_var"]
        statistics += ["save_scale", "save_shift"] if "limits" in spec else []
        statistics += ["save_health"] if "faults" in spec else []
        running = ["new_running_mean", "new_running_var"]
    truth = {name: [0.0] * geometry.elements for name in elementwise}
    truth |= {name: [mpf(0)] * geometry.channels for name in sums}
    truth |= {name: [0.0] * geometry.instances for name in statistics}
    levels = ("atol", "tight")
    bounds = {f"{level}.{name}": [0.0] * (geometry.instances if name in statistics else geometry.channels)
              for level in levels for name in truth}
    computed = []
    for instance in instances:
        mp.prec = PRECISION
        exact = instance.faulty_results() if instance.fault else instance.results()
        for name in elementwise:
            for index, value in zip(instance.indices, exact[name]):
                truth[name][index] = float(value)
        for name in sums:
            truth[name][instance.channel] += exact[name]
        for name in statistics:
            truth[name][instance.place] = float(exact[name])
        if instance.fault:
            by_level = {level: dict.fromkeys(exact, 0.0) for level in levels}
        else:
            by_level = tolerances(spec, data, instance, exact)
        for level in levels:
            for name in elementwise:
                of = bounds[f"{level}.{name}"]
                of[instance.channel] = max(of[instance.channel], by_level[level][name])
            for name in sums:
                bounds[f"{level}.{name}"][instance.channel] += by_level[level][name]
            for name in statistics:
                bounds[f"{level}.{name}"][instance.place] = by_level[level][name]
        computed.append((instance, exact, by_level))
        if "dx" in elementwise:
            mp.prec = CHECK_PRECISION
            instance.check(instance.results())
    mp.prec = PRECISION
    for name in sums:
        truth[name] = [float(value) for value in truth[name]]
    if running:
        after = recorded(spec, data, computed)
        for which, name in enumerate(running):
            truth[name] = [float(values.values[which]) for values in after]
            for level in levels:
                bounds[f"{level}.{name}"] = [values.errors[level][which] for values in after]
    for name in set(truth) - set(spec.get("only", truth)):
        del truth[name]
    elementwise = [name for name in elementwise if name in truth]
    bounds = {name: values for name, values in bounds.items() if name.split(".")[1] in truth}
    bounds = with_room(bounds, spec["dtype"], elementwise)
    mode = "training" if spec["training"] else "inference"
    operations = [f"backward_{mode}", f"forward_{mode}"]
    if spec.get("from_output"):
        operations[0] = "backward_from_output"
    if "dx" not in truth:
        del operations[0], data["dy"]
    momentum = None if "tracked" in spec else MOMENTUM
    fields = {"eps": epsilon_of(spec), "momentum": momentum, "effective_momentum": momentum,
              "running_var_correction": "unbiased", "activation": spec["activation"]}
    if "slope" in spec:
        fields["slope"] = spec["slope"]
    if "tracked" in spec:
        fields["num_batches_tracked"] = spec["tracked"]
    fields |= placement(spec)
    if "limits" in spec:
        fields["renormalization"] = dict(zip(("r_max", "d_max"), spec["limits"]))
    if spec.get("guard"):
        fields["non_finite"] = "skip_running_update"
    entry = write_case(spec, geometry, operations, fields, data, truth, bounds, elementwise)
    if smallest is not None:
        entry["min_abs_preactivation"] = float(f"{smallest:.6g}")
    return entry


def main():
    for stale in (FOLDER / "cases").glob("closed.*.safetensors"):
        os.remove(stale)
    entries = [build(number, spec) for number, spec in enumerate(CASES)] + fold.cases() + population.cases()
    written = [json.dumps(entry, separators=(",", ":")) for entry in entries]
    manifest = FOLDER / "manifest.json"
    lines = [line.rstrip(",") for line in manifest.read_text().splitlines() if line.startswith("{")]
    kept = [line for line in lines if json.loads(line)["source"] != SOURCE]
    manifest.write_text("[\n" + ",\n".join(kept + written) + "\n]\n")
    print(f"{len(written)} cases")


if __name__ == "__main__":
    main()
