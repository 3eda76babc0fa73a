#!/usr/bin/env python3
"""Writes the manifests of the kernels in `obvious/`, for `throughput --peer OUT`.

    python3 benches/peers/obvious.py OUT [--shape N,C,H,W]
    cargo run --release --example throughput -- --layout first --peer OUT [--shape N,C,H,W]

The kernels are what one would write first: a workgroup of 256 invocations for each channel, loads of single elements,
sums by a tree in workgroup memory; inference with an invocation for each element. README.md says what a manifest holds.
"""

import argparse
import json
import pathlib
import shutil

SHAPES = [
    (32, 64, 56, 56), (32, 256, 14, 14), (32, 512, 7, 7), (8, 64, 112, 112), (1024, 512, 1, 1),
    (16, 3, 224, 224), (256, 32, 8, 8), (256, 2048, 1, 1), (20, 6, 256, 256), (1, 2048, 7, 7),
]
KERNELS = pathlib.Path(__file__).parent / "obvious"
# The buffers of every kernel, by binding.
BINDINGS = {
    "training": [
        "sizes", "x", "gamma", "beta", "y", "running_mean", "running_variance", "saved_mean", "saved_inverse",
    ],
    "inference": ["sizes", "x", "gamma", "beta", "frozen_mean", "frozen_variance", "y"],
    "backward": ["sizes", "x", "dy", "gamma", "saved_mean", "saved_inverse", "dx", "dgamma", "dbeta"],
}
THREADS = 256
# Workgroups that WebGPU lets a dispatch have in one dimension.
MOST_WORKGROUPS = 65535


def manifest(shape):
    samples, channels, height, width = shape
    groups = -(-samples * channels * height * width // THREADS)
    row = min(groups, MOST_WORKGROUPS)
    workgroups = {
        "training": [channels, 1, 1],
        "inference": [row, -(-groups // row), 1],
        "backward": [channels, 1, 1],
    }
    sizes = [{"u32": samples}, {"u32": channels}, {"u32": height * width}, {"f32": 1e-5}, {"f32": 0.1}]
    return {
        "name": "obvious",
        "shape": shape,
        "scratch": {"saved_mean": 4 * channels, "saved_inverse": 4 * channels},
        # A uniform buffer is a multiple of 16 bytes.
        "uniforms": {"sizes": sizes + 3 * [{"u32": 0}]},
        "operations": {
            op: [{
                "wgsl": f"{op}.wgsl",
                "entry_point": "main",
                "workgroups": workgroups[op],
                "bindings": {str(binding): name for binding, name in enumerate(names)},
            }]
            for op, names in BINDINGS.items()
        },
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path, help="folder that the manifests are written to")
    parser.add_argument("--shape", action="append", type=lambda text: tuple(int(part) for part in text.split(",")))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for op in BINDINGS:
        shutil.copy(KERNELS / f"{op}.wgsl", arguments.out)
    for shape in arguments.shape or SHAPES:
        path = arguments.out / f"{'x'.join(map(str, shape))}.json"
        path.write_text(json.dumps(manifest(shape), indent=1) + "\n")


if __name__ == "__main__":
    main()
