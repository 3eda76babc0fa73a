"""Golden cases of the statistics of many batches, of unequal sizes along the first dimension."""
import math

from mpmath import mp, mpf

from golden import (BITS, EPSILON, OFFSETS, PRECISION, U32, Geometry, integers, placement, valid_positions, with_room,
                    write_case)


def case(name, layout, shape, batches, *, dtype="f32", correction="unbiased", offset=0, **options):
    assert sum(batches) == shape[0], name
    return dict(name=name, layout=layout, shape=shape, batches=batches, dtype=dtype, correction=correction,
                offset=offset, **options)


CASES = [
    case("population.nchw", "NCHW", [7, 3, 3, 5], [2, 1, 0, 4]),
    case("population.nhwc.biased", "NHWC", [9, 2, 3, 5], [1, 5, 3], correction="biased"),
    # A mean of hundreds of deviations, and a batch of one sample.
    case("population.nc.far", "NC", [40, 5], [7, 1, 32], offset=1 << 20),
    case("population.f16.nlc.biased", "NLC", [6, 7, 4], [3, 1, 2], dtype="f16", correction="biased"),
    case("population.bf16.ncl", "NCL", [5, 3, 6], [1, 4], dtype="bf16"),
    case("population.valid.nchw", "NCHW", [6, 4, 3, 4], [4, 2], masked=True),
    # Steps with samples in both batches, in one of them, one sample in all, and none.
    case("population.steps.ncl.valid.separate", "NCL", [5, 3, 6], [3, 2], along=2, running="separate",
         lengths=[3, 1, 2, 5, 4]),
]


def inputs(spec, geometry, seed, recorded):
    bits, channels, cycle = BITS[spec["dtype"]], geometry.channels, OFFSETS[spec["dtype"]]
    batch_of = [batch for batch, size in enumerate(spec["batches"]) for _ in range(size)]
    x = []
    for index, k in enumerate(integers(geometry.elements, seed, bits)):
        channel, batch = index // geometry.inner % channels, batch_of[geometry.along(0, index)]
        # Batches have means of their own.
        drift = (batch - 1) * (1 << bits - 3)
        if abs(k + drift) >= 1 << bits - 1:
            drift = 0
        x.append(math.ldexp(k + drift + cycle[channel % len(cycle)] + spec["offset"], 3 - bits))
    data = {"x": x}
    for name, salt, least in (("running_mean", 1, 0.0), ("running_var", 2, 2.0)):
        data[name] = [least + math.ldexp(k, -7) for k in integers(recorded, seed + salt, 8)]
    valid = valid_positions(spec, geometry, seed)
    return data if valid is None else data | {"valid": valid}


def build(number, spec):
    mp.prec = PRECISION
    seed, geometry = 201_000 + 1000 * number, Geometry(spec)
    separate = spec.get("running") == "separate"
    segments = range(geometry.segments) if separate else [None]
    recorded = geometry.instances if separate else geometry.channels
    data = inputs(spec, geometry, seed, recorded)
    names = ["moments_count", "moments_mean", "moments_m2", "new_running_mean", "new_running_var"]
    truth = {name: [0.0] * recorded for name in names}
    bounds = {f"{level}.{name}": [0.0] * recorded for level in ("atol", "tight") for name in truth}
    for segment in segments:
        for channel in range(geometry.channels):
            place = channel if segment is None else geometry.place(segment, channel)
            members = [i for i in geometry.of_channel(channel) if segment in (None, geometry.segment_of(i))]
            values = [mpf(data["x"][i]) for i in members if "valid" not in data or data["valid"][geometry.position(i)]]
            n = len(values)
            if n == 0:
                # Nothing to take: the running statistics stay.
                truth["new_running_mean"][place] = data["running_mean"][place]
                truth["new_running_var"][place] = data["running_var"][place]
                continue
            mean = mp.fsum(values) / n
            m2 = mp.fsum((v - mean)**2 for v in values)
            degrees = n - 1 if spec["correction"] == "unbiased" and n > 1 else n
            for name, value in zip(names, (n, mean, m2, mean, m2 / degrees)):
                truth[name][place] = float(value)
            errors = tolerances(spec, [float(v) for v in values], float(mean), float(m2), len(members))
            for level, (e_mean, e_m2) in errors.items():
                of = {"moments_mean": e_mean, "new_running_mean": e_mean, "moments_m2": e_m2,
                      "new_running_var": e_m2 / degrees + 2 * U32 * float(m2) / degrees}
                for name, error in of.items():
                    bounds[f"{level}.{name}"][place] = error
    bounds = with_room(bounds, spec["dtype"], [])
    fields = {"eps": EPSILON, "momentum": None, "effective_momentum": None,
              "running_var_correction": spec["correction"], "activation": None, "batches": spec["batches"]}
    return write_case(spec, geometry, ["population"], fields | placement(spec), data, truth, bounds, [])


# As of one batch (see closed_form.py), with the levels of a merge, two roundings each, for every batch.
def tolerances(spec, values, mean, m2, elements):
    """Of the mean and of M2, by level."""
    n, levels = len(values), 2.0 + math.log2(elements) + 2 * len(spec["batches"])
    average = lambda numbers: math.fsum(map(abs, numbers)) / n
    size, deviation = average(values), average([v - mean for v in values])
    out = {}
    for level in ("atol", "tight"):
        loose = level == "atol"
        e_mean = U32 * levels * size if loose else U32 * levels * deviation + U32 * abs(mean)
        d_mean = e_mean if loose else U32 * levels * deviation + 2.0**-44 * size
        out[level] = (e_mean, U32 * (6 + 2 * levels) * m2 + n * d_mean**2)
    return out


def cases():
    return [build(number, spec) for number, spec in enumerate(CASES)]
