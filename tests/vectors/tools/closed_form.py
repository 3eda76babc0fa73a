#!/usr/bin/env python3
"""Writes the golden cases of the source `closed_form`: activations and element types that no other source has.

    python3 tests/vectors/tools/closed_form.py

Needs mpmath. Inputs are integers from a hash, scaled by powers of two; the truth is evaluated from the formulas below
with 200 bits and rounded to f64, and its gradients are checked against central differences. Writes
`cases/closed.*.safetensors` and replaces the lines of this source in `manifest.json`.
"""
import json
import math
import os
import struct
from pathlib import Path

from mpmath import mp, mpf

FOLDER = Path(__file__).resolve().parent.parent
SOURCE = "closed_form"
PRECISION, CHECK_PRECISION = 200, 600

LAYOUTS = {"NC": 1, "NCL": 1, "NCHW": 1, "NCDHW": 1, "NLC": 2, "NHWC": 3, "NDHWC": 4}
EPSILON, MOMENTUM = 1e-5, 0.1
# The smallest |pre-activation| before a kink: a thousand times what f32 may be off by.
KINK_DISTANCE = 0.004

U32 = 2.0**-24
F32_TINY = 2.0**-126
# One rounding to the element type, with the 1 % on top that the other f16 cases have.
ROUNDING = {"f16": 0.000493164, "bf16": 0.00394531}
# Integers of the tensors and their channel offsets: sums that the element type holds exactly.
BITS = {"f32": 12, "f16": 10, "bf16": 7}
OFFSETS = {"f32": [0, 700, -300, 2900], "f16": [0, 400, -150, 1000], "bf16": [0, 40, -25, 64]}


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
]


def integers(count, seed, bits):
    """The top bits of lowbias32 of the index moved by the seed, centred on 0."""
    mask = 0xFFFFFFFF
    values = []
    for index in range(count):
        h = (index + seed * 0x9E3779B9) & mask
        h ^= h >> 16
        h = h * 0x7FEB352D & mask
        h ^= h >> 15
        h = h * 0x846CA68B & mask
        h ^= h >> 16
        values.append((h >> (32 - bits)) - (1 << (bits - 1)))
    return values


class Geometry:
    def __init__(self, layout, shape):
        axis = LAYOUTS[layout]
        self.channels, self.inner = shape[axis], math.prod(shape[axis + 1:])
        self.elements = math.prod(shape)

    def of_channel(self, channel):
        return [i for i in range(self.elements) if i // self.inner % self.channels == channel]


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
        data["running_mean"] = [math.ldexp(offsets[c], -shifts[c]) + m for c, m in enumerate(vector(5, 8))]
        data["running_var"] = [2.0 + v for v in vector(6, 7)]
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


class Channel:
    """The inputs of one channel, and the operations on them."""

    def __init__(self, spec, data, indices, channel):
        take = lambda name: [mpf(data[name][i]) for i in indices] if name in data else [mpf(0)] * len(indices)
        scalar = lambda name, absent: mpf(data[name][channel]) if name in data else mpf(absent)
        self.training = spec["training"]
        self.f, self.df = activation(spec["activation"], spec.get("slope"))
        self.x, self.dy, self.z = take("x"), take("dy"), take("residual")
        self.w, self.b = scalar("weight", 1), scalar("bias", 0)
        self.running_mean, self.running_var = scalar("running_mean", 0), scalar("running_var", 1)

    def statistics(self):
        n = len(self.x)
        if not self.training:
            return self.running_mean, self.running_var
        mean = mp.fsum(self.x) / n
        return mean, mp.fsum((x - mean)**2 for x in self.x) / n

    def preactivations(self):
        mean, var = self.statistics()
        r = 1 / mp.sqrt(var + mpf(EPSILON))
        xhat = [(x - mean) * r for x in self.x]
        return xhat, r, [self.w * h + self.b + z for h, z in zip(xhat, self.z)]

    def loss(self):
        return mp.fsum(g * self.f(t) for g, t in zip(self.dy, self.preactivations()[2]))

    def results(self):
        n = len(self.x)
        mean, var = self.statistics()
        xhat, r, t = self.preactivations()
        h = [g * self.df(u) for g, u in zip(self.dy, t)]
        db, dw = mp.fsum(h), mp.fsum(a * b for a, b in zip(h, xhat))
        through = [db / n + u * dw / n for u in xhat] if self.training else [mpf(0)] * n
        out = dict(t=t, xhat=xhat, r=r, mean=mean, var=var, y=[self.f(u) for u in t], dresidual=h,
                   dx=[self.w * r * (a - b) for a, b in zip(h, through)], dweight=dw, dbias=db)
        if self.training:
            m = mpf(MOMENTUM)
            out.update(save_mean=mean, save_invstd=r, save_var=var,
                       new_running_mean=(1 - m) * self.running_mean + m * mean,
                       new_running_var=(1 - m) * self.running_var + m * var * n / (n - 1))
        return out

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

        last = len(self.x) - 1
        pairs = [(results["dx"][i], item(self.x, i)) for i in (0, last)]
        pairs += [(results["dresidual"][i], item(self.z, i)) for i in (0, last)]
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


def tolerances(spec, data, channel, indices, exact):
    numbers = {name: [float(v) for v in value] if isinstance(value, list) else float(value)
               for name, value in exact.items()}
    x, xhat, t, h = [data["x"][i] for i in indices], numbers["xhat"], numbers["t"], numbers["dresidual"]
    mean, var, r = numbers["mean"], numbers["var"], numbers["r"]
    training, n = spec["training"], len(indices)
    dy = [abs(data["dy"][i]) for i in indices]
    levels = 2.0 + math.log2(n)
    sums = levels if training else 2.0
    weight = abs(data["weight"][channel]) if "weight" in data else 1.0
    bias = abs(data["bias"][channel]) if "bias" in data else 0.0
    largest = max(map(abs, xhat))
    residual = max((abs(data["residual"][i]) for i in indices), default=0.0) if "residual" in data else 0.0
    deviations = [abs(v - mean) for v in x]
    average = lambda values: math.fsum(values) / len(values)
    size = average([abs(v) for v in x]) if training else max(max(map(abs, x)), abs(mean))
    out = {}
    for level in ("atol", "tight"):
        loose = level == "atol"
        e_mean = U32 * sums * size if loose else U32 * sums * average(deviations) + U32 * abs(mean)
        d_mean = e_mean if loose else U32 * sums * average(deviations) + 2.0**-44 * size
        if not training:
            d_mean = U32 * 4.0 * size if loose else U32 * 2.0 * max(deviations)
        e_var = U32 * (6 + 2 * sums) * var + (d_mean**2 if training else 0.0)
        rel_r = min(4 * U32 + 0.5 * e_var / (var + EPSILON), 1.0)
        e_xhat = d_mean * r + largest * (rel_r + 4 * U32)
        e_t = weight * e_xhat + 4 * U32 * (bias + weight * largest + residual)
        tolerance = {"y": max(error_of_y(spec, u, e_t) for u in t)}
        if training:
            factor = n / (n - 1)
            tolerance["save_mean"], tolerance["save_invstd"], tolerance["save_var"] = e_mean, rel_r * r, e_var
            old_mean, old_var = abs(data["running_mean"][channel]), abs(data["running_var"][channel])
            tolerance["new_running_mean"] = (MOMENTUM * e_mean
                                             + 3 * U32 * ((1 - MOMENTUM) * old_mean + MOMENTUM * abs(mean)))
            tolerance["new_running_var"] = (MOMENTUM * factor * e_var
                                            + 4 * U32 * ((1 - MOMENTUM) * old_var + MOMENTUM * factor * var))
        e_h = [g * error_of_derivative(spec, u, e_t) for g, u in zip(dy, t)]
        products = [a * b for a, b in zip(h, xhat)]
        sum_h, sum_products = math.fsum(map(abs, h)), math.fsum(map(abs, products))
        db, dw = abs(numbers["dbias"]), abs(numbers["dweight"])
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
        peak = max(map(abs, h))
        if training:
            inside = peak + db / n + largest * dw / n
            e_inside = 4 * U32 * inside + e_db / n + largest * e_dw / n + e_xhat * dw / n
        else:
            inside, e_inside = peak, 2 * U32 * peak
        e_inside += max(e_h)
        tolerance["dx"] = weight * r * (e_inside + (rel_r + 4 * U32) * inside)
        tolerance["dweight"], tolerance["dbias"] = e_dw, e_db
        tolerance["dresidual"] = 2 * U32 * peak + max(e_h)
        for name, value in tolerance.items():
            half_subnormal = 2.0**-25 if spec["dtype"] == "f16" and name in ("y", "dx", "dresidual") else 0.0
            out[f"{level}.{name}"] = value + F32_TINY + half_subnormal
    return out


def encode(dtype, values):
    if dtype == "F64":
        return struct.pack(f"<{len(values)}d", *values)
    if dtype == "F16":
        encoded = struct.pack(f"<{len(values)}e", *values)
        assert list(struct.unpack(f"<{len(values)}e", encoded)) == list(values)
        return encoded
    encoded = struct.pack(f"<{len(values)}f", *values)
    assert list(struct.unpack(f"<{len(values)}f", encoded)) == list(values)
    if dtype == "BF16":
        assert not any(encoded[0::4]) and not any(encoded[1::4])
        encoded = b"".join(encoded[i + 2:i + 4] for i in range(0, len(encoded), 4))
    return encoded


def write_safetensors(path, tensors):
    header, body = {}, b""
    # Wide types first, so that every value is aligned.
    width = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
    for name, (dtype, shape, values) in sorted(tensors.items(), key=lambda item: (-width[item[1][0]], item[0])):
        encoded = encode(dtype, values)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(body), len(body) + len(encoded)]}
        body += encoded
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)


def compute(spec, seed):
    geometry = Geometry(spec["layout"], spec["shape"])
    data = inputs(spec, geometry, seed)
    channels = []
    for channel in range(geometry.channels):
        indices = geometry.of_channel(channel)
        channels.append((indices, Channel(spec, data, indices, channel)))
    return geometry, data, channels


def away_from_kinks(spec, seed):
    """The first seed from `seed` on whose pre-activations keep away from 0, and the smallest of them."""
    while True:
        _, _, channels = compute(spec, seed)
        smallest = min(abs(t) for _, channel in channels for t in channel.preactivations()[2])
        if smallest >= KINK_DISTANCE:
            return seed, float(smallest)
        seed += 16


def build(number, spec):
    mp.prec = PRECISION
    seed, smallest = 1000 * (number + 1), None
    if spec["activation"] in ("relu", "leaky_relu"):
        seed, smallest = away_from_kinks(spec, seed)
    geometry, data, channels = compute(spec, seed)
    elementwise = ["y", "dx"] + (["dresidual"] if spec["residual"] else [])
    vectors = [name for name in ("weight", "bias") if name in data]
    vectors = [f"d{name}" for name in vectors]
    if spec["training"]:
        vectors += ["save_mean", "save_invstd", "save_var", "new_running_mean", "new_running_var"]
    truth = {name: [0.0] * geometry.elements for name in elementwise} | {name: [] for name in vectors}
    bounds = {}
    for channel, (indices, values) in enumerate(channels):
        mp.prec = PRECISION
        exact = values.results()
        for name in elementwise:
            for index, value in zip(indices, exact[name]):
                truth[name][index] = float(value)
        for name in vectors:
            truth[name].append(float(exact[name]))
        for name, bound in tolerances(spec, data, channel, indices, exact).items():
            if name.split(".")[1] in truth:
                bounds.setdefault(name, []).append(bound)
        mp.prec = CHECK_PRECISION
        values.check(values.results())

    element, count = spec["dtype"].upper(), [geometry.channels]
    tensors = {}
    for name, values in data.items():
        large = len(values) == geometry.elements and name in ("x", "dy", "residual")
        tensors[name] = (element, spec["shape"], values) if large else ("F32", count, values)
    for name, values in truth.items():
        tensors[name] = ("F64", spec["shape"] if name in elementwise else count, values)
    for name, values in bounds.items():
        tensors[name] = ("F64", count, values)
    name = f"closed.{spec['name']}"
    write_safetensors(FOLDER / "cases" / f"{name}.safetensors", tensors)

    mode = "training" if spec["training"] else "inference"
    entry = {
        "name": name, "file": f"cases/{name}.safetensors", "source": SOURCE, "op": f"backward_{mode}",
        "ops": [f"backward_{mode}", f"forward_{mode}"], "layout": spec["layout"],
        "channel_axis": LAYOUTS[spec["layout"]], "shape": spec["shape"], "channels": geometry.channels,
        "reduction_count": geometry.elements // geometry.channels, "dtype": spec["dtype"],
        "param_dtype": "f32" if "weight" in data else None, "eps": EPSILON, "momentum": MOMENTUM,
        "effective_momentum": MOMENTUM, "running_var_correction": "unbiased", "activation": spec["activation"],
    }
    if "slope" in spec:
        entry["slope"] = spec["slope"]
    rounding = ROUNDING.get(spec["dtype"])
    entry |= {
        "flags": [], "tensors": sorted(tensors), "rtol": {n: rounding for n in elementwise} if rounding else {},
        "atol_max": {n: float(f"{max(bounds[f'atol.{n}']):.6g}") for n in truth}, "group": name,
        "license": "MIT OR Apache-2.0", "note": "closed forms with 200 bits, by tools/closed_form.py",
    }
    if smallest is not None:
        entry["min_abs_preactivation"] = float(f"{smallest:.6g}")
    return json.dumps(entry, separators=(",", ":"))


def main():
    for stale in (FOLDER / "cases").glob("closed.*.safetensors"):
        os.remove(stale)
    written = [build(number, spec) for number, spec in enumerate(CASES)]
    manifest = FOLDER / "manifest.json"
    lines = [line.rstrip(",") for line in manifest.read_text().splitlines() if line.startswith("{")]
    kept = [line for line in lines if json.loads(line)["source"] != SOURCE]
    manifest.write_text("[\n" + ",\n".join(kept + written) + "\n]\n")
    print(f"{len(written)} cases")


if __name__ == "__main__":
    main()
