"""Sizes that other tools refuse or run badly, as data: what to know before a cut, not after it.

Rules are those of installed packages, which were tried (gguf 0.19, transformers 5.24, ctranslate2
4.8), or of a tool's documentation, as their source says.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Callable, Mapping, Sequence

from openba_jax.errors import UserError
from openba_jax.models.base import Model

Sizes = Mapping[str, int]
"""Sizes of axes by name: those of one stack, and those that all share."""


@dataclasses.dataclass(frozen=True)
class Rule:
    """What one tool wants of one size.

    Attributes:
      tool: its name.
      axes: names of axes whose sizes are multiplied.
      wanted: what the product should be, in words.
      fits: whether it is: (product, sizes) -> bool.
      otherwise: what the tool does if it is not.
      source: where that is known from.
      architectures: of Hugging Face, to which it applies; empty: to all models.
    """

    tool: str
    axes: tuple[str, ...]
    wanted: str
    fits: Callable[[int, Sizes], bool]
    otherwise: str
    source: str
    architectures: tuple[str, ...] = ()


def _multiple_of(number: int) -> Callable[[int, Sizes], bool]:
    return lambda size, _: size % number == 0


def _one_of(*known: int) -> Callable[[int, Sizes], bool]:
    return lambda size, _: size in known


def _rows(*axes: str) -> tuple[Rule, Rule]:
    """Rows of GGUF's tensors are as long as what a matrix reads."""
    source = "gguf.constants.GGML_QUANT_SIZES"
    return (
        Rule(
            *("gguf", axes, "a multiple of 32", _multiple_of(32)),
            "no quantised type can hold tensors with such rows",
            source,
        ),
        Rule(
            # Said only of what other types can hold.
            *("gguf", axes, "a multiple of 256", lambda size, _: size % 256 == 0 or size % 32 > 0),
            "K-quants (Q4_K, Q6_K, ...) cannot hold tensors with such rows",
            source,
        ),
    )


_TILES = "Cloud TPU performance guide"
_PADDED = "matrix units work on tiles of 128, so that the rest is padding"

RULES: tuple[Rule, ...] = (
    *_rows("embed"),
    *_rows("heads", "kv"),
    *_rows("joined_kv"),
    *_rows("mlp"),
    Rule(
        "transformers",
        ("embed",),
        "a multiple of the heads",
        lambda size, sizes: size % sizes["heads"] == 0,
        "LlamaConfig refuses it",
        "transformers, LlamaConfig.validate_architecture",
        ("llama",),
    ),
    Rule(
        "ctranslate2",
        ("heads", "kv"),
        "as large as embed",
        lambda size, sizes: size == sizes["embed"],
        "the converter takes embed / heads for the size of a head",
        "ctranslate2.converters, LlamaLoader and Qwen2Loader",
        ("llama", "qwen2"),
    ),
    Rule(
        "vllm",
        ("kv",),
        "64, 80, 96, 112, 120, 128, 192 or 256",
        _one_of(64, 80, 96, 112, 120, 128, 192, 256),
        "PagedAttention refuses such heads",
        "documented by vLLM",
    ),
    Rule(
        "vllm",
        ("vocab",),
        "a multiple of 64",
        _multiple_of(64),
        "the embedding is padded to one",
        "documented by vLLM",
    ),
    *(
        Rule("tpu", (axis,), "a multiple of 128", _multiple_of(128), _PADDED, _TILES)
        for axis in ("embed", "mlp", "vocab", "kv")
    ),
)

TOOLS = tuple(dict.fromkeys(rule.tool for rule in RULES))

FAMILIES: Mapping[str, tuple[str, ...]] = {
    "gguf": ("llama", "t5"),
    "transformers": ("llama", "t5", "t5gemma"),
    "ctranslate2": ("llama", "t5"),
    "vllm": ("llama",),
}
"""The families that a tool takes at all; a tool that is not here takes every one.

OpenBA's files in Hugging Face's format need the code that was published with the weights.
"""


def check_tools(tools: Sequence[str]) -> None:
    """Checks that tools are known.

    Raises:
      UserError: one is not.
    """
    for tool in tools:
        if tool not in TOOLS:
            close = difflib.get_close_matches(tool, TOOLS, 1)
            hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(TOOLS)}."
            raise UserError(f"there are no rules for {tool!r}; {hint}")


def misfits(model: Model, tools: Sequence[str]) -> list[str]:
    """What tools refuse, or run badly, of a model; a sentence each.

    Raises:
      UserError: a tool is not known.
    """
    check_tools(tools)
    architecture = getattr(model.config, "model_type", model.config.family)
    family = model.config.family
    takes = {tool: family in FAMILIES.get(tool, (family,)) for tool in tools}
    found = {
        f"{tool}: it has no network of the family {family}, whatever its sizes; it takes "
        f"{' and '.join(FAMILIES[tool])}.": None
        for tool, taken in takes.items()
        if not taken
    }
    for stack in model.stacks:
        sizes = _sizes(model, stack)
        for rule in RULES:
            if not takes.get(rule.tool) or not set(rule.axes) <= set(sizes):
                continue
            if rule.architectures and architecture not in rule.architectures:
                continue
            size = math.prod(sizes[axis] for axis in rule.axes)
            if not rule.fits(size, sizes):
                found[
                    f"{rule.tool}: {' x '.join(rule.axes)} is {size} and not {rule.wanted}; "
                    f"{rule.otherwise} ({rule.source})."
                ] = None
    return list(found)


def _sizes(model: Model, stack: str) -> Sizes:
    """Sizes by the names of axes, as a stack has them."""
    sizes: dict[str, int] = {}
    for key, size in model.axes.sizes.items():
        home, _, axis = key.rpartition("/")
        if home in ("", stack):
            sizes[axis] = size
    return sizes
