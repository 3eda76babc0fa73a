"""What the golden cases in closed form have in common: inputs from a hash, where elements lie, and how a case is written."""
import json
import math
import struct
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent
SOURCE = "closed_form"
PRECISION, CHECK_PRECISION = 200, 600

LAYOUTS = {"NC": 1, "NCL": 1, "NCHW": 1, "NCDHW": 1, "NLC": 2, "NHWC": 3, "NDHWC": 4}
SEQUENCE_AXES = {"NCL": (0, 2), "NLC": (0, 1)}
EPSILON, MOMENTUM = 1e-5, 0.1

# Inputs that are f32 whatever the tensors are.
VECTORS = ("weight", "bias", "running_mean", "running_var", "layer_bias")

U32 = 2.0**-24
F32_TINY = 2.0**-126
# One rounding to the element type, with the 1 % on top that the other f16 cases have.
ROUNDING = {"f16": 0.000493164, "bf16": 0.00394531}
# Integers of the tensors and their channel offsets: sums that the element type holds exactly.
BITS = {"f32": 12, "f16": 10, "bf16": 7}
OFFSETS = {"f32": [0, 700, -300, 2900], "f16": [0, 400, -150, 1000], "bf16": [0, 40, -25, 64]}


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
    def __init__(self, spec):
        layout, shape = spec["layout"], spec["shape"]
        self.shape, axis = shape, LAYOUTS[layout]
        self.channels, self.inner = shape[axis], math.prod(shape[axis + 1:])
        self.elements = math.prod(shape)
        self.positions = self.elements // self.channels
        self.segments, self.segment_of, self.by_channel = 1, lambda index: 0, False
        if "sub_batches" in spec:
            self.segments = spec["sub_batches"]
            self.segment_of = lambda index: self.along(0, index) * self.segments // shape[0]
        if "along" in spec:
            self.segments, self.by_channel = shape[spec["along"]], spec["along"] > axis
            self.segment_of = lambda index: self.along(spec["along"], index)
        self.instances = self.segments * self.channels

    def along(self, axis, index):
        """The index of an element along a dimension."""
        return index // math.prod(self.shape[axis + 1:]) % self.shape[axis]

    def position(self, index):
        return index // (self.channels * self.inner) * self.inner + index % self.inner

    def of_channel(self, channel):
        return [i for i in range(self.elements) if i // self.inner % self.channels == channel]

    def place(self, segment, channel):
        """Where an instance's statistics stand."""
        return channel * self.segments + segment if self.by_channel else segment * self.channels + channel


def valid_positions(spec, geometry, seed):
    if "lengths" in spec:
        sequence, step = SEQUENCE_AXES[spec["layout"]]
        valid = [0] * geometry.positions
        for index in range(geometry.elements):
            length = spec["lengths"][geometry.along(sequence, index)]
            valid[geometry.position(index)] = int(geometry.along(step, index) < length)
        return valid
    if spec.get("masked"):
        return [int(k >= -64) for k in integers(geometry.positions, seed + 7, 8)]
    return None


def encode(dtype, values):
    exact = lambda a, b: a == b or math.isnan(a) and math.isnan(b)
    if dtype == "F64":
        return struct.pack(f"<{len(values)}d", *values)
    if dtype == "U8":
        return bytes(values)
    if dtype == "F16":
        encoded = struct.pack(f"<{len(values)}e", *values)
        assert all(map(exact, struct.unpack(f"<{len(values)}e", encoded), values))
        return encoded
    encoded = struct.pack(f"<{len(values)}f", *values)
    assert all(map(exact, struct.unpack(f"<{len(values)}f", encoded), values))
    if dtype == "BF16":
        assert not any(encoded[0::4]) and not any(encoded[1::4])
        encoded = b"".join(encoded[i + 2:i + 4] for i in range(0, len(encoded), 4))
    return encoded


def write_safetensors(path, tensors):
    header, body = {}, b""
    # Wide types first, so that every value is aligned.
    width = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "U8": 1}
    for name, (dtype, shape, values) in sorted(tensors.items(), key=lambda item: (-width[item[1][0]], item[0])):
        encoded = encode(dtype, values)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(body), len(body) + len(encoded)]}
        body += encoded
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)


def with_room(bounds, dtype, elementwise):
    """Tolerances with room for results that are flushed, and for the rounding of what is subnormal in f16."""
    half = 2.0**-25 if dtype == "f16" else 0.0
    room = lambda name: F32_TINY + (half if name.split(".")[1] in elementwise else 0.0)
    return {name: [value + room(name) for value in values] for name, values in bounds.items()}


def write_case(spec, geometry, operations, fields, inputs, truth, bounds, elementwise):
    """Writes a case's tensors; returns its line of the manifest."""
    parameters = {"valid": "U8"} | dict.fromkeys(VECTORS, "F32")
    tensors = {}
    for name, values in inputs.items():
        dtype = parameters.get(name)
        tensors[name] = (dtype or spec["dtype"].upper(), [len(values)] if dtype else spec["shape"], values)
    for name, values in truth.items():
        tensors[name] = ("F64", spec["shape"] if name in elementwise else [len(values)], values)
    for name, values in bounds.items():
        tensors[name] = ("F64", [len(values)], values)
    name = f"closed.{spec['name']}"
    write_safetensors(FOLDER / "cases" / f"{name}.safetensors", tensors)
    rounding = ROUNDING.get(spec["dtype"])
    return {
        "name": name, "file": f"cases/{name}.safetensors", "source": SOURCE, "op": operations[0],
        "ops": operations, "layout": spec["layout"],
        "channel_axis": LAYOUTS[spec["layout"]], "shape": spec["shape"], "channels": geometry.channels,
        "reduction_count": geometry.elements // geometry.channels, "dtype": spec["dtype"],
        "param_dtype": "f32" if "weight" in inputs else None,
    } | fields | {
        "flags": [], "tensors": sorted(tensors), "rtol": {n: rounding for n in elementwise} if rounding else {},
        "atol_max": {n: float(f"{max(bounds[f'atol.{n}']):.6g}") for n in truth}, "group": name,
        "license": "MIT OR Apache-2.0", "note": "closed forms with 200 bits, by tools/closed_form.py",
    }


def placement(spec):
    """The fields that say which elements belong together, and which are padding."""
    entry = {}
    if "lengths" in spec:
        sequence, step = SEQUENCE_AXES[spec["layout"]]
        entry["lengths"] = {"values": spec["lengths"], "sequence": sequence, "step": step}
    if "sub_batches" in spec:
        entry["segments"] = {"kind": "sub_batches", "count": spec["sub_batches"]}
    if "along" in spec:
        entry["segments"] = {"kind": "along", "axis": spec["along"]}
    if entry.get("segments"):
        entry["segment_running"] = spec.get("running", "in_turn")
    return entry
