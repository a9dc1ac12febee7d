"""`T5GemmaConfig`: every size and switch of the network, and the named sizes of T5Gemma.

Sizes: Zhang et al. 2025, arXiv:2504.06225; docs/t5gemma.md says which counts they were checked by.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any, ClassVar, NamedTuple

from openba_jax.errors import UserError
from openba_jax.models.axes import Coupling, Fixed, Grouped
from openba_jax.models.encoder_decoder import EncoderDecoderConfig

LOCAL, GLOBAL = "sliding_attention", "full_attention"
"""Types of layers, as transformers spells them."""

EOS_ID = 1

STACKS = ("encoder", "decoder")

COUPLINGS: tuple[Coupling, ...] = (
    *(Grouped(f"{stack}/kv_heads", f"{stack}/heads") for stack in STACKS),
    Fixed("kv"),
)
"""Query heads go with the key/value heads that they share, and rotary positions need whole heads.
Nothing joins the stacks: each has its own width."""


class StackSizes(NamedTuple):
    """One stack of layers.

    Attributes:
      embed_dim: width of its residual stream.
      num_heads: query heads.
      num_kv_heads: key and value heads.
      head_dim: size of one head.
      mlp_dim: width of the feed-forward layer.
      layers: depth.
      layer_types: `LOCAL` or `GLOBAL`, one for each layer.
      sliding_window: positions that a local layer reaches.
      query_pre_attn_scalar: scores are divided by its square root.
    """

    embed_dim: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    mlp_dim: int
    layers: int
    layer_types: tuple[str, ...]
    sliding_window: int
    query_pre_attn_scalar: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class T5GemmaConfig(EncoderDecoderConfig):
    """Architecture and numerics of one encoder-decoder.

    Attributes:
      encoder_embed_dim: width of the encoder's residual stream.
      encoder_num_heads: query heads of the encoder.
      encoder_num_kv_heads: its key and value heads, of which consecutive query heads share each.
      encoder_head_dim: size of one of its heads; pruning never changes it.
      encoder_mlp_dim: width of its feed-forward layer.
      encoder_layers: its depth.
      encoder_layer_types: for each of its layers `sliding_attention` (local) or `full_attention`
        (global); empty: in turn, the first one local.
      encoder_sliding_window: a local layer sees keys at most this far away, on either side.
      encoder_query_pre_attn_scalar: scores of the encoder are divided by its square root.
      decoder_embed_dim: width of the decoder's residual stream.
      decoder_num_heads: query heads of self- and cross-attention in the decoder.
      decoder_num_kv_heads: key and value heads of both.
      decoder_head_dim: size of one of these heads; pruning never changes it.
      decoder_mlp_dim: width of the decoder's feed-forward layer.
      decoder_layers: its depth.
      decoder_layer_types: as those of the encoder; cross-attention is always global.
      decoder_sliding_window: a local layer sees so many positions, its own and those before.
      decoder_query_pre_attn_scalar: as that of the encoder.
      attention_bias: biases on query, key, value and output projections.
      attention_softcap: bound on the scores of attention; 0: none.
      final_softcap: bound on the logits; 0: none.
      tie_embeddings: the logits use the decoder's embedding matrix.
      rms_norm_epsilon: added to the mean of squares.
      rope_theta: base of the rotary frequencies.
      initializer_std: standard deviation of all initial matrices.
      start_id: the token that an answer starts with. In decoder inputs, id 0, which every part of
        this package puts in front, stands for it.
      eos_ids: ids that end an answer by Hugging Face's configuration, kept for the way back; a
        model whose vocabulary is cut keeps 1 alone, since the others may have moved.
    """

    family: ClassVar[str] = "t5gemma"
    sizes: ClassVar[tuple[str, ...]] = (
        *EncoderDecoderConfig.sizes,
        *(
            f"{stack}_{name}"
            for stack in STACKS
            for name in (
                *("embed_dim", "num_heads", "num_kv_heads", "head_dim", "mlp_dim"),
                *("sliding_window", "query_pre_attn_scalar"),
            )
        ),
    )
    positive: ClassVar[tuple[str, ...]] = ("rms_norm_epsilon", "rope_theta", "initializer_std")
    depths: ClassVar[tuple[str, ...]] = ("encoder_layers", "decoder_layers")
    changeable: ClassVar[tuple[str, ...]] = (
        *EncoderDecoderConfig.changeable,
        *("initializer_std", "eos_ids"),
    )
    per_layer: ClassVar[Mapping[str, str]] = {
        "encoder_layer_types": "encoder",
        "decoder_layer_types": "decoder",
    }

    encoder_embed_dim: int
    encoder_num_heads: int
    encoder_num_kv_heads: int
    encoder_head_dim: int
    encoder_mlp_dim: int
    encoder_layers: int
    encoder_layer_types: tuple[str, ...] = ()
    encoder_sliding_window: int = 4096
    encoder_query_pre_attn_scalar: int = 256
    decoder_embed_dim: int
    decoder_num_heads: int
    decoder_num_kv_heads: int
    decoder_head_dim: int
    decoder_mlp_dim: int
    decoder_layers: int
    decoder_layer_types: tuple[str, ...] = ()
    decoder_sliding_window: int = 4096
    decoder_query_pre_attn_scalar: int = 256
    attention_bias: bool = False
    attention_softcap: float = 50.0
    final_softcap: float = 30.0
    tie_embeddings: bool = True
    rms_norm_epsilon: float = 1e-6
    rope_theta: float = 10000.0
    initializer_std: float = 0.02
    start_id: int = 2
    eos_ids: tuple[int, ...] = (EOS_ID,)

    def __post_init__(self) -> None:
        """Checks what `EncoderDecoderConfig` checks, heads, types of layers, bounds and ids.

        Raises:
          UserError: a field has a value that no network can have.
        """
        super().__post_init__()
        for stack in STACKS:
            self._check_heads(stack)
            self._spell_out_types(stack)
        for name in ("attention_softcap", "final_softcap"):
            if getattr(self, name) < 0:
                raise UserError(f"{name} is {getattr(self, name)}; it must be 0 (none) or more.")
        if not 0 <= self.start_id < self.vocab_size:
            raise UserError(f"start_id is {self.start_id}; the vocabulary has {self.vocab_size}.")
        if any(type(i) is not int for i in self.eos_ids) or EOS_ID not in self.eos_ids:
            raise UserError(
                f"eos_ids is {list(self.eos_ids)}; it must be ids, {EOS_ID} among them, which ends "
                "answers here."
            )

    def _check_heads(self, stack: str) -> None:
        heads, kv_heads, size = (
            getattr(self, f"{stack}_{name}") for name in ("num_heads", "num_kv_heads", "head_dim")
        )
        if heads % kv_heads:
            raise UserError(
                f"{stack}_num_heads is {heads}, which {kv_heads} key/value heads do not divide; "
                f"make it a multiple of {stack}_num_kv_heads."
            )
        if size % 2:
            raise UserError(f"{stack}_head_dim is {size}; rotary positions need an even size.")

    def _spell_out_types(self, stack: str) -> None:
        name, depth = f"{stack}_layer_types", getattr(self, f"{stack}_layers")
        types = getattr(self, name)
        if not types:
            object.__setattr__(self, name, alternating(depth))
            return
        odd = next((each for each in types if each not in (LOCAL, GLOBAL)), None)
        if odd is not None:
            raise UserError(f"{name} has {odd!r}; known: {LOCAL!r}, {GLOBAL!r}.")
        if len(types) != depth:
            raise UserError(
                f"{name} has {len(types)} types for {depth} layers; give one for each, or () for "
                "local and global layers in turn."
            )

    @property
    def encoder(self) -> StackSizes:
        """The sizes of the encoder."""
        return self._stack("encoder")

    @property
    def decoder(self) -> StackSizes:
        """The sizes of the decoder."""
        return self._stack("decoder")

    def _stack(self, stack: str) -> StackSizes:
        return StackSizes(*(getattr(self, f"{stack}_{name}") for name in StackSizes._fields))


def alternating(depth: int) -> tuple[str, ...]:
    """Types of layers in turn, the first one local."""
    return tuple(GLOBAL if number % 2 else LOCAL for number in range(depth))


def resized_fields(sizes: Mapping[str, int]) -> dict[str, Any]:
    """The fields that sizes of axes, by key, stand for."""
    names = {
        "embed": "embed_dim",
        "heads": "num_heads",
        "kv_heads": "num_kv_heads",
        "kv": "head_dim",
        "mlp": "mlp_dim",
        "layers": "layers",
    }
    own = {
        f"{stack}_{field}": sizes[f"{stack}/{axis}"]
        for stack in STACKS
        for axis, field in names.items()
    }
    return {"vocab_size": sizes["vocab"], **own}


def inferred_fields(sizes: Mapping[str, int], paths: Collection[str]) -> dict[str, Any]:
    """The fields that sizes of axes and paths of parameters imply."""
    return {
        **resized_fields(sizes),
        "attention_bias": "encoder/layers/self_attention/query/bias" in paths,
        "tie_embeddings": "decoder/logits_dense/kernel" not in paths,
    }


def _stack_fields(stack: str, sizes: tuple[int, ...]) -> dict[str, int]:
    """Width, query heads, key/value heads, size of a head, feed-forward width, depth."""
    names = ("embed_dim", "num_heads", "num_kv_heads", "head_dim", "mlp_dim", "layers")
    fields = {f"{stack}_{name}": size for name, size in zip(names, sizes, strict=True)}
    return {**fields, f"{stack}_query_pre_attn_scalar": sizes[3]}


def _named(
    encoder: tuple[int, ...], decoder: tuple[int, ...] | None = None, **fields: Any
) -> T5GemmaConfig:
    published = {
        "vocab_size": 256_000,
        "max_encoder_length": 8192,
        "max_decoder_length": 8192,
        "dtype": "bfloat16",
    }
    stacks = {
        **_stack_fields("encoder", encoder),
        **_stack_fields("decoder", decoder or encoder),
    }
    return T5GemmaConfig(**{**published, **stacks, **fields})


_SIZES: dict[str, tuple[int, ...]] = {
    "s": (512, 8, 8, 64, 1024, 8),
    "b": (768, 12, 12, 64, 2048, 12),
    "l": (1024, 16, 16, 64, 2816, 24),
    "ml": (1152, 4, 4, 256, 6912, 26),
    "xl": (2048, 32, 32, 64, 5120, 24),
    "2b": (2304, 8, 4, 256, 9216, 26),
    "9b": (3584, 16, 8, 256, 14_336, 42),
}

_TINY: dict[str, Any] = {
    "vocab_size": 512,
    "max_encoder_length": 1024,
    "max_decoder_length": 1024,
    "encoder_sliding_window": 8,
    "decoder_sliding_window": 8,
    "dtype": "float32",
}

NAMED: dict[str, T5GemmaConfig] = {
    **{f"t5gemma_{name}": _named(_SIZES[name]) for name in ("s", "b", "l", "ml", "xl")},
    "t5gemma_2b_2b": _named(_SIZES["2b"]),
    "t5gemma_9b_2b": _named(_SIZES["9b"], _SIZES["2b"]),
    "t5gemma_9b_9b": _named(_SIZES["9b"]),
    "tiny_t5gemma": _named((32, 4, 2, 8, 64, 2), **_TINY),
    "tiny_t5gemma_unbalanced": _named((48, 6, 3, 8, 96, 4), (32, 4, 2, 10, 64, 3), **_TINY),
}

LARGEST = NAMED["tiny_t5gemma_unbalanced"].replace(attention_bias=True, tie_embeddings=False)
"""Has every parameter that a T5Gemma can have."""

LABELS = {
    "t5gemma_ml": "2B",
    "t5gemma_2b_2b": "2B-2B",
    "t5gemma_9b_2b": "9B-2B",
    "t5gemma_9b_9b": "9B-9B",
}
"""Names with a number; those of the pairs are of the Gemma 2 that a stack was made of."""
