#!/usr/bin/env python3
"""Ours beside PyTorch: worst errors of both on the golden cases, as multiples of the strict tolerance.

    cargo run --release --example verify -- --cases DIR --adapter all --json FILE
    python3 tests/vectors/tools/beside_pytorch.py DIR/manifest.json FILE

The manifest says what PyTorch's CPU kernels give in the case's own element type (`pytorch_cpu_same_dtype_err_over_tight`). The
strict tolerance is what f32 arithmetic costs without any term in |mean|/deviation. Prints Markdown: a table of the cases in which
either is beyond half of it, worst first, and how often one is nearer to the truth than the other.
"""

import json
import sys

NAMES = ["y", "dx", "dweight", "dbias", "save_mean", "save_invstd", "new_running_mean", "new_running_var"]


def number(value):
    return float(value) if not isinstance(value, (int, float)) else value


def main():
    manifest, outcome = (json.load(open(path)) for path in sys.argv[1:3])
    theirs = {case["name"]: case.get("pytorch_cpu_same_dtype_err_over_tight") or {} for case in manifest}
    for target in sorted({record["target"] for record in outcome}):
        rows, better, equal, worse = [], 0, 0, []
        for record in outcome:
            if record["target"] != target or record["status"] == "skipped":
                continue
            for result in record["results"]:
                name = result["tensor"]
                known = theirs.get(record["case"], {}).get(name)
                if name not in NAMES or known is None or result["ratio_tight"] is None:
                    continue
                ours, known = number(result["ratio_tight"]), number(known)
                if max(ours, known) > 0.5:
                    rows.append((known / max(ours, 1e-3), record["case"], name, ours, known))
                # Within a tenth of the tolerance of each other both are as near as rounding lets them.
                if ours < known - 0.1:
                    better += 1
                elif ours <= known + 0.1:
                    equal += 1
                else:
                    worse.append((ours - known, record["case"], name, ours, known))
        print(f"### {target}\n")
        print(f"Nearer to the truth than PyTorch: {better}; as near: {equal}; farther: {len(worse)}.\n")
        print("| case | result | ours | PyTorch | ratio |\n|---|---|---|---|---|")
        for gain, case, name, ours, known in sorted(rows, reverse=True):
            print(f"| {case} | {name} | {ours:.3g} | {known:.4g} | {gain:.3g} |")
        print("\nFarther:\n")
        for _, case, name, ours, known in sorted(worse, reverse=True):
            print(f"* {case}: {name}: {ours:.3f}, PyTorch {known:.3f}")
        print()


if __name__ == "__main__":
    main()
