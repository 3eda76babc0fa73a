#!/usr/bin/env python3
"""Markdown tables of the error study: this crate beside PyTorch.

    python3 examples/error_study/tables.py examples/error_study/pytorch.csv docs/accuracy/*.csv

The first file is PyTorch's; the others are of one driver each, as `error_study --csv` writes them, the first of them the one that is
shown in full. Cells are worst errors over all ways in which channels lie, in roundoffs of the result's type.
"""

import csv
import pathlib
import sys

KEYS = ["element", "arrangement", "variant", "ratio_log10", "length_log2"]
SHOWN = {
    "y": "y of training",
    "mean": "Saved mean, in deviations",
    "inverse_deviation": "Saved 1/deviation",
    "dx": "dx",
    "dgamma": "dγ",
    "inference": "y of inference",
    "frozen_dgamma": "dγ through frozen statistics",
}


def load(path):
    with open(path) as file:
        lines = file.read().splitlines()
    head = " ".join(line.lstrip("# ") for line in lines if line.startswith("#"))
    rows = {tuple(row[key] for key in KEYS): row for row in csv.DictReader(line for line in lines if not line.startswith("#"))}
    return head, rows


def peer(key):
    return (key[0], key[1], "whole" if key[2] in ("parts", "windows") else key[2], key[3], key[4])


def short(value):
    if value >= 1e4:
        mantissa, exponent = f"{value:.0e}".split("e")
        return f"{mantissa}e{int(exponent)}"
    return f"{value:.0f}" if value >= 99.5 else f"{value:.1f}"


def pairs(rows, theirs):
    """(quantity, key, ours, PyTorch's) of everything that both have."""
    for key, row in rows.items():
        other = theirs.get(peer(key))
        for name in row if other else ():
            if name not in KEYS and name != "inputs" and row[name] and other[name]:
                assert row["inputs"] == other["inputs"], key
                yield name, key, float(row[name]), float(other[name])


def main():
    (_, theirs), *drivers = (load(path) for path in sys.argv[1:])
    titles = [pathlib.Path(path).stem for path in sys.argv[2:]]
    head, rows = drivers[0]
    print(f"Of {head}:\n")
    for element, names in [("f32", SHOWN), ("bf16", ["y", "inverse_deviation", "dgamma"]), ("f16", ["y", "dx"])]:
        for name in names:
            cells = {}
            for quantity, key, ours, other in pairs(rows, theirs):
                if quantity == name and key[0] == element and key[2] == "whole":
                    cells.setdefault(key[3:], []).append((ours, other))
            lengths = sorted({int(length) for _, length in cells})
            print(f"{SHOWN[name]}, {element}:\n")
            print("| mean/deviation | " + " | ".join(f"2^{length}" for length in lengths) + " |")
            print("|---" * (len(lengths) + 1) + "|")
            for ratio in sorted({int(ratio) for ratio, _ in cells}):
                line = []
                for length in lengths:
                    found = cells.get((str(ratio), str(length)))
                    line.append(" / ".join(short(max(values)) for values in zip(*found)) if found else "–")
                print(f"| 1e{ratio} | " + " | ".join(line) + " |")
            print()
    print("| result | " + " | ".join(titles) + " | PyTorch |")
    print("|---" * (len(drivers) + 2) + "|")
    names = [name for name in next(iter(rows.values())) if name not in KEYS and name != "inputs"]
    for name in names:
        worst = [max(float(row[name]) for row in rows.values() if row[name]) for _, rows in drivers]
        other = max(float(row[name]) for row in theirs.values() if row[name])
        print(f"| {name} | " + " | ".join(f"{value:.1f}" for value in worst) + f" | {short(other)} |")
    print()
    print("| variant | element | figures | nearer than PyTorch by more than 1 | farther by more than 1 | farthest beyond it |")
    print("|---" * 6 + "|")
    for variant in ["whole", "parts", "windows", "segments", "silu", "gelu"]:
        for element in ["f32", "f16", "bf16"]:
            found = [
                (ours - other, name, key, ours, other)
                for _, rows in drivers
                for name, key, ours, other in pairs(rows, theirs)
                if key[0] == element and key[2] == variant
            ]
            nearer, farther = (sum(test(off) for off, *_ in found) for test in (lambda x: x < -1, lambda x: x > 1))
            off, name, key, ours, other = max(found)
            worst = f"{name} {ours:.1f} / {other:.1f} (1e{key[3]}, 2^{key[4]})"
            print(f"| {variant} | {element} | {len(found)} | {nearer} | {farther} | {worst} |")


if __name__ == "__main__":
    main()
