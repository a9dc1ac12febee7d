"""FLOPs of matrix products in compiled text: `dot`, kernels, and `convolution`, which TPUs make."""

from __future__ import annotations

import functools
import json
import math
import re

import numpy as np

from openba_jax.fit.hlo import Array, Computation, Instruction, Module

_WINDOW = re.compile(r"window=\{([^}]*)\}")
_SCORES = re.compile(r'"intermediate_tensor_shape":.*?"dimensions":\s*\[([^\]]*)\]')
_LABELS = re.compile(r"dim_labels=(\w+)_(\w+)->(\w+)")


def flops(module: Module, computation: Computation, instruction: Instruction) -> float:
    """FLOPs of the products of an instruction, those inside a fusion included.

    A kernel counts with the estimate that its author gave, if there is one.
    """
    if instruction.opcode == "dot":
        return _dot(computation.operand_arrays(instruction), instruction)
    if instruction.opcode == "convolution":
        return _convolution(computation.operand_arrays(instruction), instruction)
    if instruction.opcode == "custom-call":
        return _custom_call(computation.operand_arrays(instruction), instruction)
    if instruction.opcode == "fusion":
        inner = module.computations[instruction.called[0]]
        return sum(flops(module, inner, each) for each in inner.instructions.values())
    return 0.0


def _dot(operands: list[Array], instruction: Instruction) -> float:
    contracted = instruction.attribute(r"lhs_contracting_dims=\{([\d,]*)\}")
    sizes = [operands[0].shape[int(axis)] for axis in contracted.split(",") if axis]
    return 2.0 * instruction.results[0].size * math.prod(sizes)


def _convolution(operands: list[Array], instruction: Instruction) -> float:
    """As XLA counts: only what falls on the input, not on padding or dilation."""
    labels = _LABELS.search(instruction.attributes)
    if labels is None:
        return 0.0
    window = _WINDOW.search(instruction.attributes)
    left, right, out = labels.groups()
    input_shape, result = operands[0].shape, instruction.results[0].shape
    fields = dict(part.split("=") for part in window[1].split()) if window else {}
    spatial = sorted(label for label in left if label.isdigit())

    def of_axis(name: str, axis: int, default: str) -> str:
        values = fields[name].split("x") if name in fields else []
        return values[axis] if values else default

    valid = 1
    for axis, label in enumerate(spatial):
        low, _, _ = of_axis("pad", axis, "0_0").partition("_")
        valid *= _valid(
            input_shape[left.index(label)],
            int(of_axis("size", axis, "1")),
            result[out.index(label)],
            int(low),
            int(of_axis("stride", axis, "1")),
            int(of_axis("lhs_dilate", axis, "1")),
            int(of_axis("rhs_dilate", axis, "1")),
        )
    groups = int(instruction.attribute(r"batch_group_count=(\d+)") or 1)
    per_group = operands[1].shape[right.index("i")]
    batch, features = result[out.index("b")], result[out.index("f")]
    return 2.0 * batch * features * per_group * valid / groups


@functools.lru_cache(maxsize=4096)
def _valid(
    size: int, kernel: int, result: int, low: int, stride: int, dilate: int, kernel_dilate: int
) -> int:
    """Pairs of places of kernel and result that meet a place of the input."""
    places = np.arange(result)[:, None] * stride - low + np.arange(kernel) * kernel_dilate
    return int(((places >= 0) & (places % dilate == 0) & (places // dilate < size)).sum())


def _custom_call(operands: list[Array], instruction: Instruction) -> float:
    target = instruction.attribute(r'custom_call_target="([^"]*)"')
    if estimate := instruction.attribute(r'"cost_estimate":\{"flops":"?([\d.e+]+)'):
        return float(estimate)
    if target.startswith("__cublas") and len(operands) >= 2:
        found = re.search(r'"lhs_contracting_dimensions":(\[[^\]]*\])', instruction.attributes)
        axes = [int(axis) for axis in json.loads(found[1])] if found else []
        contracted = math.prod(operands[0].shape[axis] for axis in axes)
        return 2.0 * instruction.results[0].size * contracted
    if target.startswith("__cudnn$fmha"):
        return _attention(operands, instruction, backward=target.endswith("Backward"))
    return 0.0


def _attention(operands: list[Array], instruction: Instruction, backward: bool) -> float:
    """Two products with the scores `[batch, heads, queries, keys]`, five in the backward pass.

    Of causal attention the kernel computes half.
    """
    found = _SCORES.search(instruction.attributes)
    if found is None or not operands:
        return 0.0
    scores = math.prod(int(size.strip(' "')) for size in found[1].split(","))
    causal = re.search(r'"mask_type":\s*"\w*CAUSAL', instruction.attributes)
    products = 5 if backward else 2
    return 2.0 * products * scores * operands[0].shape[-1] / (2 if causal else 1)
