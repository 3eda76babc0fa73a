#!/usr/bin/env python3
"""Writes the states of PyTorch's batch norm modules that `BatchNormLayer` is tested with, and reads states back.

    python3 tests/vectors/tools/layer_state.py write         # writes tests/vectors/layer/*.safetensors
    python3 tests/vectors/tools/layer_state.py check FILE     # loads FILE, a state of the same model, and compares

Needs torch, numpy and safetensors. The parameters are f32; what the modules make of them is computed in f64 and rounded once.
"""
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

FOLDER = Path(__file__).resolve().parent.parent / "layer"
CHANNELS = 5
SHAPE = (4, CHANNELS, 3, 2)


class Model(nn.Module):
    """A module for each kind of state."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential()
        self.stem.add_module("bn", nn.BatchNorm2d(CHANNELS))
        self.plain = nn.BatchNorm2d(CHANNELS, affine=False)
        self.scaled = nn.BatchNorm2d(CHANNELS, bias=False)
        self.untracked = nn.BatchNorm2d(CHANNELS, track_running_stats=False)
        self.averaged = nn.BatchNorm2d(CHANNELS, momentum=None)

    def norms(self):
        return {name: module for name, module in self.named_modules() if isinstance(module, nn.BatchNorm2d)}


def batch(generator, dtype=torch.float32):
    offset = 3 * torch.randn(1, CHANNELS, 1, 1, generator=generator)
    scale = torch.randn(1, CHANNELS, 1, 1, generator=generator).exp()
    return (offset + scale * torch.randn(SHAPE, generator=generator)).to(dtype)


def trained_model():
    generator = torch.Generator().manual_seed(7)
    model = Model()
    for module in model.norms().values():
        for parameter in module.parameters():
            with torch.no_grad():
                parameter += 0.4 * torch.randn(CHANNELS, generator=generator)
        for _ in range(3):
            module(batch(generator))
    return model, generator


def step(module, x, dy):
    """y, and the gradients of x, weight and bias."""
    module.zero_grad()
    x = x.clone().requires_grad_()
    y = module(x)
    y.backward(dy)
    results = {"y": y, "dx": x.grad}
    for name, parameter in module.named_parameters():
        results[f"d{name}"] = parameter.grad
    return results


def write():
    FOLDER.mkdir(exist_ok=True)
    model, generator = trained_model()
    state = model.state_dict()
    save_file(state, FOLDER / "model.safetensors")
    save_file({name: value for name, value in state.items() if name.startswith("stem.bn.")}, FOLDER / "bn.safetensors")
    for dtype in [torch.float16, torch.bfloat16, torch.float64]:
        kind = str(dtype).removeprefix("torch.")
        cast = {name: value.to(dtype) if value.is_floating_point() else value for name, value in state.items()}
        save_file(cast, FOLDER / f"model.{kind}.safetensors")

    x, dy = batch(generator), torch.randn(SHAPE, generator=generator)
    results = {"x": x, "dy": dy}
    model.double()
    for name, module in model.norms().items():
        module.eval()
        results |= {f"{name}.eval.{key}": value for key, value in step(module, x.double(), dy.double()).items()}
        module.train()
        results |= {f"{name}.train.{key}": value for key, value in step(module, x.double(), dy.double()).items()}
        results |= {f"{name}.after.{key}": value for key, value in module.named_buffers()}
    narrow = lambda value: value.detach().to(torch.float32) if value.is_floating_point() else value
    save_file({name: narrow(value).contiguous() for name, value in results.items()}, FOLDER / "steps.safetensors")


def check(path):
    model = Model()
    model.load_state_dict(load_file(path), strict=True)
    expected, _ = trained_model()
    for name, value in expected.state_dict().items():
        loaded = model.state_dict()[name]
        assert loaded.dtype == value.dtype and torch.equal(loaded, value), name
    print(f"{path}: {len(model.state_dict())} tensors, as PyTorch wrote them")


if __name__ == "__main__":
    if sys.argv[1:] == ["write"]:
        write()
    elif len(sys.argv) == 3 and sys.argv[1] == "check":
        check(sys.argv[2])
    else:
        sys.exit(__doc__)
