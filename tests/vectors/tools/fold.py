"""Golden cases of folding inference into the layer before it, whose weights are the tensor."""
import math

from mpmath import mp, mpf

from golden import BITS, EPSILON, PRECISION, U32, Geometry, integers, with_room, write_case

PARTS = ("layer_bias", "weight", "bias")


def case(name, layout, shape, parts, *, dtype="f32", activation=None, variances=1.0):
    return dict(name=name, layout=layout, shape=shape, parts=parts, dtype=dtype, activation=activation,
                variances=variances)


CASES = [
    # A convolution of 3 channels to 4 with kernels of 9, as PyTorch has it; the activation stays outside.
    case("fold.nchw", "NCHW", [1, 4, 3, 9], PARTS, activation="relu"),
    # The same to 5 as Keras has it.
    case("fold.f16.nhwc", "NHWC", [3, 3, 3, 5], PARTS, dtype="f16"),
    # A transposed convolution.
    case("fold.bf16.ncl", "NCL", [5, 3, 6], ("weight",), dtype="bf16"),
    # Linear layers of either order, one of channels that hardly vary.
    case("fold.nc", "NC", [10, 6], ()),
    case("fold.ncl", "NCL", [1, 7, 13], ("layer_bias", "bias"), variances=2.0**-14),
    case("fold.f16.ncl", "NCL", [1, 6, 7], ("layer_bias", "weight"), dtype="f16"),
]


def inputs(spec, geometry, seed):
    bits, channels = BITS[spec["dtype"]], geometry.channels
    vector = lambda salt, shift: [math.ldexp(k, -shift) for k in integers(channels, seed + salt, 8)]
    data = {
        "layer_weight": [math.ldexp(k, 1 - bits) for k in integers(geometry.elements, seed, bits)],
        "layer_bias": vector(1, 6),
        # Of either sign.
        "weight": [math.ldexp((-1)**c * (32 + abs(k)), -6) for c, k in enumerate(integers(channels, seed + 2, 8))],
        "bias": vector(3, 6),
        "running_mean": vector(4, 5),
        "running_var": [spec["variances"] * (2.0 + v) for v in vector(5, 7)],
    }
    return {name: values for name, values in data.items() if name not in PARTS or name in spec["parts"]}


def check(weights, folded, patch, parameters):
    """The folded layer must give what inference makes of the layer, for some input of it."""
    layer_bias, gamma, beta, mean, r, folded_bias = parameters
    layer = mp.fsum(w * u for w, u in zip(weights, patch)) + layer_bias
    alone = mp.fsum(w * u for w, u in zip(folded, patch)) + folded_bias
    after = gamma * ((layer - mean) * r) + beta
    assert abs(alone - after) <= mpf(2)**-150 * (1 + abs(after)), (alone, after)


def build(number, spec):
    mp.prec = PRECISION
    seed, geometry = 101_000 + 1000 * number, Geometry(spec)
    data = inputs(spec, geometry, seed)
    truth = {"folded_weight": [0.0] * geometry.elements, "folded_bias": []}
    bounds = {f"{level}.{name}": [] for level in ("atol", "tight") for name in truth}
    for channel in range(geometry.channels):
        of = lambda name, absent: mpf(data[name][channel]) if name in data else mpf(absent)
        layer_bias, gamma, beta = of("layer_bias", 0), of("weight", 1), of("bias", 0)
        mean, r = of("running_mean", 0), 1 / mp.sqrt(of("running_var", 1) + mpf(EPSILON))
        members = geometry.of_channel(channel)
        weights = [mpf(data["layer_weight"][i]) for i in members]
        folded = [w * (gamma * r) for w in weights]
        folded_bias = (layer_bias - mean) * gamma * r + beta
        patch = [math.ldexp(k, -7) for k in integers(len(members), seed + 6, 8)]
        check(weights, folded, patch, (layer_bias, gamma, beta, mean, r, folded_bias))
        for index, value in zip(members, folded):
            truth["folded_weight"][index] = float(value)
        truth["folded_bias"].append(float(folded_bias))
        # The variance plus epsilon, its reciprocal root, and two products: 6 roundings; 12 of kernels less careful with the
        # root. The bias has a difference and a sum on top.
        scaled = abs(float((layer_bias - mean) * gamma * r))
        for level, roundings in (("atol", 12), ("tight", 6)):
            bounds[f"{level}.folded_weight"].append(roundings * U32 * max(abs(float(w)) for w in folded))
            bounds[f"{level}.folded_bias"].append((roundings + 2) * U32 * scaled + U32 * abs(float(folded_bias)))
    bounds = with_room(bounds, spec["dtype"], ["folded_weight"])
    fields = {"eps": EPSILON, "momentum": None, "effective_momentum": None, "running_var_correction": "unbiased",
              "activation": spec["activation"]}
    return write_case(spec, geometry, ["fold"], fields, data, truth, bounds, ["folded_weight"])


def cases():
    return [build(number, spec) for number, spec in enumerate(CASES)]
