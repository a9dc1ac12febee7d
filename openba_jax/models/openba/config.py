"""`OpenBAConfig`: every size and switch of the network, and the named sizes of OpenBA-V2.

Sizes and defaults: docs/original.md, Architecture and Stages.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Collection, Mapping
from typing import Any, ClassVar, Literal, get_args

import flax.linen as nn
import jax

from openba_jax.errors import UserError
from openba_jax.models.axes import Coupling, Equal, Fixed
from openba_jax.models.encoder_decoder import EncoderDecoderConfig
from openba_jax.models.padding import padded_vocab_size

FfnRule = Literal["v1", "v2"]

COUPLINGS: tuple[Coupling, ...] = (
    Equal(("encoder/heads", "decoder/heads")),
    Equal(("encoder/mlp", "decoder/mlp")),
    Fixed("kv"),
)
"""One configuration speaks of both stacks, and rotary positions need whole heads."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class OpenBAConfig(EncoderDecoderConfig):
    """Architecture and numerics of one encoder-decoder.

    Attributes:
      embed_dim: width of the residual stream.
      num_heads: attention heads, of self- and cross-attention, in both stacks.
      head_dim: size of one head; pruning never changes it.
      mlp_dim: width of the SwiGLU layer (the real width, not the argument of Megatron's v1).
      encoder_layers: depth of the encoder.
      decoder_layers: depth of the decoder.
      qkv_bias: bias on query, key, value and attention output projections.
      mlp_bias: bias on the feed-forward projections.
      logits_bias: bias on the logits.
      tie_embeddings: the logits use the embedding matrix.
      scale_tied_logits: multiply the decoder output by `embed_dim ** -0.5` before tied logits; only
        the Hugging Face class does so.
      embedding_dropout: drop out embeddings too, as Megatron does and Hugging Face does not.
      layer_norm_epsilon: added to the variance.
      rope_theta: base of the rotary frequencies.
      initializer_std: standard deviation of all projections but the output ones.
      ffn_rule: how Hugging Face's and Megatron's configurations state `mlp_dim`: by a number that
        goes through a rule (v1), or as it is (v2). The network does not depend on it.
    """

    family: ClassVar[str] = "openba"
    sizes: ClassVar[tuple[str, ...]] = (
        *EncoderDecoderConfig.sizes,
        *("embed_dim", "num_heads", "head_dim", "mlp_dim"),
    )
    positive: ClassVar[tuple[str, ...]] = ("layer_norm_epsilon", "rope_theta", "initializer_std")
    depths: ClassVar[tuple[str, ...]] = ("encoder_layers", "decoder_layers")
    changeable: ClassVar[tuple[str, ...]] = (
        *EncoderDecoderConfig.changeable,
        *("embedding_dropout", "initializer_std", "ffn_rule"),
    )

    embed_dim: int
    num_heads: int
    mlp_dim: int
    encoder_layers: int
    decoder_layers: int
    head_dim: int = 128
    qkv_bias: bool = True
    mlp_bias: bool = False
    logits_bias: bool = True
    tie_embeddings: bool = True
    scale_tied_logits: bool = False
    embedding_dropout: bool = True
    layer_norm_epsilon: float = 1e-5
    rope_theta: float = 10000.0
    initializer_std: float = 0.02
    ffn_rule: FfnRule = "v1"

    def __post_init__(self) -> None:
        """Checks what `EncoderDecoderConfig` checks, and the head size.

        Raises:
          UserError: a field has a value that no network can have.
        """
        super().__post_init__()
        if self.head_dim % 2:
            raise UserError(f"head_dim is {self.head_dim}; rotary positions need an even size.")
        self.check_choice("ffn_rule", get_args(FfnRule))

    @property
    def activation(self) -> Callable[[jax.Array], jax.Array]:
        """The gate of the feed-forward layer; a family with another one overrides this."""
        return nn.silu

    @property
    def output_initializer_std(self) -> float:
        """Standard deviation of attention output and `wo` kernels: `std / sqrt(2 L)`.

        L counts encoder layers, in both stacks, because Megatron's `num_layers` did.
        """
        return self.initializer_std / math.sqrt(2 * self.encoder_layers)


def resized_fields(sizes: Mapping[str, int]) -> dict[str, Any]:
    """The fields that sizes of axes, by key, stand for."""
    return {
        "vocab_size": sizes["vocab"],
        "embed_dim": sizes["embed"],
        "num_heads": sizes["encoder/heads"],
        "head_dim": sizes["encoder/kv"],
        "mlp_dim": sizes["encoder/mlp"],
        "encoder_layers": sizes["encoder/layers"],
        "decoder_layers": sizes["decoder/layers"],
    }


def inferred_fields(sizes: Mapping[str, int], paths: Collection[str]) -> dict[str, Any]:
    """The fields that sizes of axes and paths of parameters imply."""
    return {
        **resized_fields(sizes),
        "qkv_bias": "encoder/layers/self_attention/query/bias" in paths,
        "mlp_bias": "encoder/layers/mlp/wi_0/bias" in paths,
        "logits_bias": "logits_dense/bias" in paths,
        "tie_embeddings": "logits_dense/kernel" not in paths,
    }


_V1 = OpenBAConfig(
    vocab_size=250_368,
    embed_dim=4096,
    num_heads=40,
    mlp_dim=11_008,
    encoder_layers=12,
    decoder_layers=36,
    dtype="bfloat16",
)
_V2 = _V1.replace(
    embed_dim=2560,
    num_heads=20,
    mlp_dim=6912,
    encoder_layers=8,
    decoder_layers=24,
    max_encoder_length=1040,
    max_decoder_length=1040,
    ffn_rule="v2",
)

NAMED: dict[str, OpenBAConfig] = {
    "openba_15b": _V1,
    "stage1_12b": _V1.replace(encoder_layers=10, decoder_layers=30),
    "stage2_11b": _V1.replace(encoder_layers=8, decoder_layers=27),
    "stage3_10b": _V1.replace(encoder_layers=8, decoder_layers=24),
    "stage4_3_8b": _V2.replace(max_encoder_length=1024, max_decoder_length=1024),
    "stage5_3_8b": _V2,
    # 120,000 pieces and 103 special tokens: the vocabulary behind the published scores.
    "openba_v2_3_4b": _V2.replace(vocab_size=padded_vocab_size(120_000 + 103)),
    # A second reading of the paper: 100,000 pieces.
    "openba_v2_3_4b_100k": _V2.replace(vocab_size=padded_vocab_size(100_000 + 103)),
    "tiny": OpenBAConfig(
        vocab_size=512,
        embed_dim=32,
        num_heads=4,
        head_dim=8,
        mlp_dim=64,
        encoder_layers=2,
        decoder_layers=3,
        ffn_rule="v2",
    ),
    "small": OpenBAConfig(
        vocab_size=2048,
        embed_dim=128,
        num_heads=4,
        head_dim=32,
        mlp_dim=352,
        encoder_layers=4,
        decoder_layers=8,
        ffn_rule="v2",
    ),
}

LARGEST = NAMED["tiny"].replace(mlp_bias=True, tie_embeddings=False)
"""Has every parameter that an OpenBA can have."""

LABELS = {
    "openba_15b": "15B; 14.57B rounded up",
    "stage1_12b": "12.3B",
    "stage2_11b": "11.0B",
    "stage3_10b": "9.9B; the paper's label, no vocabulary gives it",
    "stage4_3_8b": "3.8B",
    "stage5_3_8b": "3.8B",
    "openba_v2_3_4b": "3.4B; 3.476B truncated",
    "openba_v2_3_4b_100k": "3.4B",
}
"""Labels of the original's stage table, and where they are not the rounded count."""
