"""`T5Config`: every size and switch of the T5 family, and its published sizes.

T5 1.0: Raffel et al. 2020, arXiv:1910.10683; 1.1: Shazeer 2020, arXiv:2002.05202; mT5: Xue et al.
2021, arXiv:2010.11934; UL2: Tay et al. 2022, arXiv:2205.05131.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping
from typing import Any, ClassVar, Literal, get_args

import flax.linen as nn
import jax

from openba_jax.errors import UserError
from openba_jax.models.axes import Coupling, Equal, Fixed, Joined
from openba_jax.models.encoder_decoder import EncoderDecoderConfig

Activation = Literal["relu", "gelu", "silu"]
ModelType = Literal["t5", "mt5"]

ACTIVATIONS: Mapping[str, Callable[[jax.Array], jax.Array]] = {
    "relu": nn.relu,
    "gelu": nn.gelu,  # The approximation by tanh, as T5X and Hugging Face's `gelu_new`.
    "silu": nn.silu,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class T5Config(EncoderDecoderConfig):
    """Architecture and numerics of one T5.

    Attributes:
      embed_dim: width of the residual stream.
      num_heads: attention heads, of self- and cross-attention, in both stacks.
      head_dim: size of one head; pruning never changes it.
      mlp_dim: width of the feed-forward layer.
      encoder_layers: depth of the encoder.
      decoder_layers: depth of the decoder.
      gated_mlp: two projections `wi_0` and `wi_1`, the first a gate (T5 1.1), instead of one `wi`.
      mlp_activation: of the gate, or of `wi`; `gelu` is the approximation by tanh.
      tie_embeddings: the logits use the embedding matrix.
      scale_tied_logits: multiply the decoder output by `embed_dim ** -0.5` before tied logits.
      relpos_buckets: distances that have a bias of their own, in both directions together.
      shared_relpos: all layers of a stack share these biases; in T5X's `scalable_t5` each layer has
        its own.
      relpos_max_distance: tokens from which on all distances share a bias.
      layer_norm_epsilon: added to the mean of squares.
      initializer_factor: of the standard deviations of all initial parameters.
      huggingface_type: what Hugging Face's format calls the model; the network does not depend on
        it.
    """

    family: ClassVar[str] = "t5"
    sizes: ClassVar[tuple[str, ...]] = (
        *EncoderDecoderConfig.sizes,
        *("embed_dim", "num_heads", "head_dim", "mlp_dim"),
    )
    positive: ClassVar[tuple[str, ...]] = ("layer_norm_epsilon", "initializer_factor")
    depths: ClassVar[tuple[str, ...]] = ("encoder_layers", "decoder_layers")
    changeable: ClassVar[tuple[str, ...]] = (
        *EncoderDecoderConfig.changeable,
        *("initializer_factor", "huggingface_type"),
    )

    embed_dim: int
    num_heads: int
    mlp_dim: int
    encoder_layers: int
    decoder_layers: int
    head_dim: int = 64
    gated_mlp: bool = True
    mlp_activation: Activation = "gelu"
    tie_embeddings: bool = False
    scale_tied_logits: bool = True
    relpos_buckets: int = 32
    relpos_max_distance: int = 128
    shared_relpos: bool = True
    layer_norm_epsilon: float = 1e-6
    initializer_factor: float = 1.0
    max_encoder_length: int = 512
    max_decoder_length: int = 512
    huggingface_type: ModelType = "t5"

    def __post_init__(self) -> None:
        """Checks what `EncoderDecoderConfig` checks, the choices, and the relative positions.

        Raises:
          UserError: a field has a value that no network can have.
        """
        super().__post_init__()
        self.check_choice("mlp_activation", get_args(Activation))
        self.check_choice("huggingface_type", get_args(ModelType))
        if self.relpos_buckets < 4 or self.relpos_buckets % 2:
            raise UserError(
                f"relpos_buckets is {self.relpos_buckets}; it must be an even number from 4 on, "
                "half of them for each direction."
            )
        if self.relpos_max_distance <= self.relpos_buckets // 2:
            raise UserError(
                f"relpos_max_distance is {self.relpos_max_distance}; it must be above "
                f"{self.relpos_buckets // 2}, half of relpos_buckets."
            )

    @property
    def activation(self) -> Callable[[jax.Array], jax.Array]:
        """The function of the feed-forward layer."""
        return ACTIVATIONS[self.mlp_activation]

    @property
    def logits_scale(self) -> float:
        """What decoder outputs are multiplied by before the logits."""
        scaled = self.tie_embeddings and self.scale_tied_logits
        return self.embed_dim**-0.5 if scaled else 1.0

    def std(self, fan_in: int) -> float:
        """Standard deviation of an initial kernel that sums over so many inputs."""
        return self.initializer_factor * fan_in**-0.5


def couplings(config: T5Config) -> tuple[Coupling, ...]:
    """What holds between the axes of a T5.

    One configuration speaks of both stacks. Heads are an axis of the position bias alone, and part
    of `joined_kv` elsewhere. Where layers share the bias, they keep the same heads.
    """
    return (
        Equal(("encoder/heads", "decoder/heads")),
        Equal(("encoder/mlp", "decoder/mlp")),
        Joined("joined_kv", "heads", config.head_dim),
        Fixed("relpos_buckets"),
    )


def resized_fields(sizes: Mapping[str, int]) -> dict[str, Any]:
    """The fields that sizes of axes, by key, stand for."""
    return {
        "vocab_size": sizes["vocab"],
        "embed_dim": sizes["embed"],
        "num_heads": sizes["encoder/heads"],
        "mlp_dim": sizes["encoder/mlp"],
        "encoder_layers": sizes["encoder/layers"],
        "decoder_layers": sizes["decoder/layers"],
    }


def inferred_fields(sizes: Mapping[str, int], paths: Collection[str]) -> dict[str, Any]:
    """The fields that sizes of axes and paths of parameters imply."""
    gated = "encoder/layers/mlp/wi_0/kernel" in paths
    # Gates are of GELU or, in UL2, of SiLU, which nothing tells: the default is a guess.
    return {
        **resized_fields(sizes),
        **({} if gated else {"mlp_activation": "relu"}),
        "head_dim": sizes["encoder/joined_kv"] // sizes["encoder/heads"],
        "relpos_buckets": sizes["encoder/relpos_buckets"],
        "shared_relpos": "encoder/relpos_bias/rel_embedding" in paths,
        "gated_mlp": gated,
        "tie_embeddings": "decoder/logits_dense/kernel" not in paths,
    }


def _size(embed: int, heads: int, mlp: int, layers: int, **fields: Any) -> T5Config:
    return T5Config(
        **{
            "vocab_size": 32_128,
            "embed_dim": embed,
            "num_heads": heads,
            "mlp_dim": mlp,
            "encoder_layers": layers,
            "decoder_layers": layers,
            "dtype": "bfloat16",
            **fields,
        }
    )


_V1_0 = {"gated_mlp": False, "mlp_activation": "relu", "tie_embeddings": True}
_V1_1 = {
    "small": _size(512, 6, 1024, 8),
    "base": _size(768, 12, 2048, 12),
    "large": _size(1024, 16, 2816, 24),
    "xl": _size(2048, 32, 5120, 24),
    "xxl": _size(4096, 64, 10_240, 24),
}
_TINY = T5Config(
    vocab_size=512,
    embed_dim=32,
    num_heads=4,
    head_dim=8,
    mlp_dim=64,
    encoder_layers=2,
    decoder_layers=3,
)

NAMED: dict[str, T5Config] = {
    "t5_small": _size(512, 8, 2048, 6, **_V1_0),
    "t5_base": _size(768, 12, 3072, 12, **_V1_0),
    "t5_large": _size(1024, 16, 4096, 24, **_V1_0),
    "t5_3b": _size(1024, 32, 16_384, 24, head_dim=128, **_V1_0),
    "t5_11b": _size(1024, 128, 65_536, 24, head_dim=128, **_V1_0),
    # Flan-T5 has these sizes, too.
    **{f"t5_1_1_{name}": config for name, config in _V1_1.items()},
    **{
        f"mt5_{name}": config.replace(vocab_size=250_112, huggingface_type="mt5")
        for name, config in _V1_1.items()
    },
    "ul2_20b": _size(4096, 16, 16_384, 32, head_dim=256, mlp_activation="silu"),
    "tiny_t5": _TINY.replace(**_V1_0),
    "tiny_t5_1_1": _TINY,
}

LABELS = {
    "t5_small": "60M",
    "t5_base": "220M",
    "t5_large": "770M",
    "t5_3b": "3B",
    "t5_11b": "11B",
    "mt5_small": "300M",
    "mt5_base": "580M",
    "mt5_large": "1.2B",
    "mt5_xl": "3.7B",
    "mt5_xxl": "13B",
    "ul2_20b": "20B",
}
"""What the publications call these sizes."""
