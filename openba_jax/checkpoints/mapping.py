"""Names of tensors in other frameworks: one table per family, read in both directions.

A row says which of our parameters make up one of their tensors, and in which layout
(`layout.Layout`). A row applies to a model that has those parameters, so that biases and untied
heads need no conditions. Facts: reference §6.7, `hf_key_map.json`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from openba_jax.checkpoints.layout import Layout
from openba_jax.models.openba.config import OpenBAConfig
from openba_jax.models.openba.network import logical_axes


@dataclasses.dataclass(frozen=True)
class Row:
    """One of their tensors, or one for each layer.

    Attributes:
      theirs: its name; `{n}` stands for the number of the layer.
      ours: paths of our parameters that it holds, in order; `layers` stands for the layer.
      layout: its layout, see `Layout.parse`.
    """

    theirs: str
    ours: tuple[str, ...]
    layout: str


def _norm(theirs: str, ours: str) -> list[Row]:
    return [
        Row(f"{theirs}.weight", (f"{ours}/scale",), "embed"),
        Row(f"{theirs}.bias", (f"{ours}/bias",), "embed"),
    ]


def _linear(theirs: str, ours: Iterable[str], outputs: str, inputs: str) -> list[Row]:
    """A torch linear layer: weight `[outputs, inputs]` and bias `[outputs]`."""
    ours = tuple(ours)
    return [
        Row(f"{theirs}.weight", tuple(f"{path}/kernel" for path in ours), f"{outputs} {inputs}"),
        Row(f"{theirs}.bias", tuple(f"{path}/bias" for path in ours), outputs),
    ]


def _hugging_face() -> list[Row]:
    rows = [Row("shared_embedding.weight", ("token_embedder/embedding",), "vocab embed")]
    for stack in ("encoder", "decoder"):
        theirs, ours = f"{stack}.block.{{n}}", f"{stack}/layers"
        rows += _norm(f"{theirs}.input_layernorm", f"{ours}/pre_self_attention_layer_norm")
        attention = f"{ours}/self_attention"
        parts = [f"{attention}/{name}" for name in ("query", "key", "value")]
        rows += _linear(f"{theirs}.self_attn.qkv", parts, "(heads part kv)", "embed")
        rows += _linear(f"{theirs}.self_attn.o", [f"{attention}/out"], "embed", "(heads kv)")
        if stack == "decoder":
            attention = f"{ours}/cross_attention"
            norm = f"{ours}/pre_cross_attention_layer_norm"
            rows += _norm(f"{theirs}.post_attn_layernorm", norm)
            rows += _linear(f"{theirs}.inter_attn.q", [f"{attention}/query"], "(heads kv)", "embed")
            parts = [f"{attention}/key", f"{attention}/value"]
            rows += _linear(f"{theirs}.inter_attn.kv", parts, "(heads part kv)", "embed")
            rows += _linear(f"{theirs}.inter_attn.o", [f"{attention}/out"], "embed", "(heads kv)")
            rows += _norm(f"{theirs}.post_inter_attn_layernorm", f"{ours}/pre_mlp_layer_norm")
        else:
            rows += _norm(f"{theirs}.post_attn_layernorm", f"{ours}/pre_mlp_layer_norm")
        parts = [f"{ours}/mlp/wi_0", f"{ours}/mlp/wi_1"]
        rows += _linear(f"{theirs}.mlp.fc_in", parts, "(part mlp)", "embed")
        rows += _linear(f"{theirs}.mlp.fc_out", [f"{ours}/mlp/wo"], "embed", "mlp")
        rows += _norm(f"{stack}.final_layernorm", f"{stack}/final_layer_norm")
    rows.append(Row("lm_head.weight", ("logits_dense/kernel",), "vocab embed"))
    rows.append(Row("lm_head.bias", ("logits_dense/bias",), "vocab"))
    return rows


def _megatron() -> list[Row]:
    """Names with `/` between the levels of Megatron's nested dictionaries."""
    root = "language_model"
    rows = [
        Row(
            f"{root}/embedding/word_embeddings/weight",
            ("token_embedder/embedding",),
            "vocab embed",
        )
    ]
    for stack in ("encoder", "decoder"):
        theirs, ours = f"{root}/{stack}/layers.{{n}}", f"{stack}/layers"
        rows += _norm(f"{theirs}.input_layernorm", f"{ours}/pre_self_attention_layer_norm")
        attention = f"{ours}/self_attention"
        parts = [f"{attention}/{name}" for name in ("query", "key", "value")]
        key = f"{theirs}.self_attention"
        rows += _linear(f"{key}.query_key_value", parts, "(heads part kv)", "embed")
        rows += _linear(f"{key}.dense", [f"{attention}/out"], "embed", "(heads kv)")
        if stack == "decoder":
            attention = f"{ours}/cross_attention"
            norm = f"{ours}/pre_cross_attention_layer_norm"
            key = f"{theirs}.inter_attention"
            rows += _norm(f"{theirs}.post_attention_layernorm", norm)
            rows += _linear(f"{key}.query", [f"{attention}/query"], "(heads kv)", "embed")
            parts = [f"{attention}/key", f"{attention}/value"]
            rows += _linear(f"{key}.key_value", parts, "(heads part kv)", "embed")
            rows += _linear(f"{key}.dense", [f"{attention}/out"], "embed", "(heads kv)")
            norm = f"{ours}/pre_mlp_layer_norm"
            rows += _norm(f"{theirs}.post_inter_attention_layernorm", norm)
        else:
            norm = f"{ours}/pre_mlp_layer_norm"
            rows += _norm(f"{theirs}.post_attention_layernorm", norm)
        rows += _linear(f"{theirs}.mlp.w1", [f"{ours}/mlp/wi_0"], "mlp", "embed")
        rows += _linear(f"{theirs}.mlp.w3", [f"{ours}/mlp/wi_1"], "mlp", "embed")
        rows += _linear(f"{theirs}.mlp.w2", [f"{ours}/mlp/wo"], "embed", "mlp")
        rows += _norm(f"{root}/{stack}/final_layernorm", f"{stack}/final_layer_norm")
    rows.append(Row("lm_head/bias", ("logits_dense/bias",), "vocab"))
    return rows


HUGGING_FACE = tuple(_hugging_face())
MEGATRON = tuple(_megatron())


@dataclasses.dataclass(frozen=True)
class Leaf:
    """One of our parameters in one layer.

    Attributes:
      path: e.g. `encoder/layers/mlp/wo/kernel`; the same whether layers are scanned or not.
      layer: its number; None outside the layers.
    """

    path: str
    layer: int | None = None

    def __str__(self) -> str:
        """The path, with the number of the layer in brackets."""
        return self.path if self.layer is None else f"{self.path}[{self.layer}]"


@dataclasses.dataclass(frozen=True)
class Entry:
    """One of their tensors and the leaves that it holds.

    Attributes:
      theirs: its name.
      leaves: our leaves, in order.
      axes: the axes of each of those leaves, without `layers`.
      layout: its layout.
    """

    theirs: str
    leaves: tuple[Leaf, ...]
    axes: tuple[str, ...]
    layout: Layout


class Parameters:
    """Paths, axes and sizes of a model's parameters, whether its layers are scanned or not."""

    def __init__(self, config: OpenBAConfig) -> None:
        """Lists the parameters of `config`."""
        self.config = config
        self.axes: dict[str, tuple[str, ...]] = {}
        self.sizes = axis_sizes(config)
        self.depth = {"encoder": config.encoder_layers, "decoder": config.decoder_layers}
        for path, axes in flatten(logical_axes(_smallest(config))).items():
            self.axes[path] = tuple(name for name in axes if name != "layers")

    def layers(self, path: str) -> list[int | None]:
        """The numbers of the layers that have the parameter; `[None]` outside the layers."""
        stack, _, rest = path.partition("/")
        return list(range(self.depth[stack])) if rest.startswith("layers/") else [None]

    def leaves(self) -> list[Leaf]:
        """All leaves, in the order of the parameter tree."""
        return [Leaf(path, layer) for path in self.axes for layer in self.layers(path)]

    def shape(self, path: str) -> tuple[int, ...]:
        """The shape of a parameter in one layer."""
        return tuple(self.sizes[name] for name in self.axes[path])


def axis_sizes(config: OpenBAConfig) -> dict[str, int]:
    """Sizes of the logical axes, `layers` left out."""
    return {
        "vocab": config.vocab_size,
        "embed": config.embed_dim,
        "heads": config.num_heads,
        "kv": config.head_dim,
        "mlp": config.mlp_dim,
    }


def expand(table: Iterable[Row], parameters: Parameters) -> list[Entry]:
    """The rows that apply to a model, layer by layer in the order of layers.

    Consecutive rows of one stack's layers are repeated as a block: layer 0, then layer 1, ...
    """
    entries: list[Entry] = []
    block: list[Row] = []

    def flush() -> None:
        if block:
            for number in parameters.layers(block[0].ours[0]):
                entries.extend(_entry(row, parameters, number) for row in block)
            block.clear()

    for row in table:
        if not all(path in parameters.axes for path in row.ours):
            continue
        layered = parameters.layers(row.ours[0]) != [None]
        if not layered or (block and _stack(block[0]) != _stack(row)):
            flush()
        if layered:
            block.append(row)
        else:
            entries.append(_entry(row, parameters, None))
    flush()
    return entries


def flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one, keys joined by `/`."""
    if not isinstance(tree, dict):
        return {prefix: tree}
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat.update(flatten(value, f"{prefix}/{key}" if prefix else str(key)))
    return flat


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `flatten`."""
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        *folders, name = path.split("/")
        node = tree
        for folder in folders:
            node = node.setdefault(folder, {})
        node[name] = value
    return tree


def _smallest(config: OpenBAConfig) -> OpenBAConfig:
    """A model with the same parameters, as small as can be: names of axes do not depend on sizes.

    The model is traced once for each set of switches, then, and not once for each size.
    """
    return config.replace(
        vocab_size=1,
        embed_dim=1,
        num_heads=1,
        head_dim=2,
        mlp_dim=1,
        encoder_layers=1,
        decoder_layers=1,
        dropout_rate=0.0,
        attention_dropout_rate=0.0,
        max_encoder_length=1,
        max_decoder_length=1,
        dtype="float32",
        param_dtype="float32",
        scan_layers=True,
        remat_policy="none",
        ffn_rule="v1",
    )


def _stack(row: Row) -> str:
    return row.ours[0].partition("/")[0]


def _entry(row: Row, parameters: Parameters, number: int | None) -> Entry:
    return Entry(
        theirs=row.theirs.format(n=number),
        leaves=tuple(Leaf(path, number) for path in row.ours),
        axes=parameters.axes[row.ours[0]],
        layout=Layout.parse(row.layout),
    )
