"""`LlamaConfig`: LLaMA 1 to 3, Mistral, Qwen 2, 2.5 and 3 (dense) as configurations of one network.

LLaMA: Touvron et al. 2023 (arXiv:2302.13971, arXiv:2307.09288). The pruned sizes are those of
docs/original.md, LLaMA.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any, ClassVar, Literal, get_args

from openba_jax.errors import UserError
from openba_jax.models.axes import Coupling, Fixed, Grouped
from openba_jax.models.decoder_only import DecoderOnlyConfig
from openba_jax.nn.rotary import LinearScaling, Llama3Scaling, Rotary

ModelType = Literal["llama", "mistral", "qwen2", "qwen3"]
RopeScaling = Literal["none", "linear", "llama3"]
LayerType = Literal["full_attention", "sliding_attention"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LlamaConfig(DecoderOnlyConfig):
    """Architecture and numerics of one decoder.

    Attributes:
      model_type: what Hugging Face calls the architecture; the network is what the other fields
        say, but not every architecture can say everything (`huggingface.py`).
      embed_dim: width of the residual stream.
      num_heads: query heads.
      num_kv_heads: heads of keys and values; 0: each query head has its own.
      head_dim: size of one head; pruning never changes it.
      mlp_dim: width of the SwiGLU layer.
      decoder_layers: depth.
      qkv_bias: bias on query, key and value projections (Qwen 2).
      out_bias: bias on the attention output projection.
      mlp_bias: bias on the feed-forward projections.
      qk_norm: RMS norms on queries and keys (Qwen 3).
      tie_embeddings: the logits use the embedding matrix.
      norm_epsilon: of the RMS norms.
      rope_theta: base of the rotary frequencies.
      rope_scaling: how they are stretched.
      rope_factor: by how much.
      rope_low_factor: of `llama3`, see `nn.rotary.Llama3Scaling`.
      rope_high_factor: of `llama3`.
      rope_original_length: of `llama3`.
      sliding_window: keys that a query of a sliding layer sees, itself included; 0: no layer
        slides.
      layer_types: `full_attention` or `sliding_attention` for each layer; empty: all slide if there
        is a window.
      initializer_std: standard deviation of all initial kernels and of the embedding.
    """

    family: ClassVar[str] = "llama"
    sizes: ClassVar[tuple[str, ...]] = (
        *DecoderOnlyConfig.sizes,
        *("embed_dim", "num_heads", "head_dim", "mlp_dim"),
    )
    positive: ClassVar[tuple[str, ...]] = (
        *("norm_epsilon", "rope_theta", "rope_factor", "rope_low_factor", "rope_high_factor"),
        *("rope_original_length", "initializer_std"),
    )
    depths: ClassVar[tuple[str, ...]] = ("decoder_layers",)
    changeable: ClassVar[tuple[str, ...]] = (
        *DecoderOnlyConfig.changeable,
        *("initializer_std", "model_type"),
    )
    per_layer: ClassVar[Mapping[str, str]] = {"layer_types": "decoder"}

    model_type: ModelType = "llama"
    embed_dim: int
    num_heads: int
    num_kv_heads: int = 0
    head_dim: int
    mlp_dim: int
    decoder_layers: int
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    tie_embeddings: bool = False
    norm_epsilon: float = 1e-5
    rope_theta: float = 10000.0
    rope_scaling: RopeScaling = "none"
    rope_factor: float = 1.0
    rope_low_factor: float = 1.0
    rope_high_factor: float = 4.0
    rope_original_length: int = 8192
    sliding_window: int = 0
    layer_types: tuple[str, ...] = ()
    initializer_std: float = 0.02

    def __post_init__(self) -> None:
        """Checks what `DecoderOnlyConfig` checks, heads and layers.

        Raises:
          UserError: a field has a value that no network can have.
        """
        super().__post_init__()
        if self.head_dim % 2:
            raise UserError(f"head_dim is {self.head_dim}; rotary positions need an even size.")
        if self.num_kv_heads < 0 or (self.num_kv_heads and self.num_heads % self.num_kv_heads):
            raise UserError(
                f"num_kv_heads is {self.num_kv_heads}, which does not divide num_heads "
                f"{self.num_heads}; every key/value head serves equally many query heads."
            )
        if self.sliding_window < 0:
            raise UserError(f"sliding_window is {self.sliding_window}; it must be 0 or more.")
        self.check_choice("model_type", get_args(ModelType))
        self.check_choice("rope_scaling", get_args(RopeScaling))
        if self.layer_types and len(self.layer_types) != self.decoder_layers:
            raise UserError(
                f"layer_types has {len(self.layer_types)} entries for {self.decoder_layers} layers."
            )
        for layer_type in self.layer_types:
            if layer_type not in get_args(LayerType):
                known = ", ".join(map(repr, get_args(LayerType)))
                raise UserError(f"layer_types has {layer_type!r}; known: {known}.")
        if "sliding_attention" in self.layer_types and not self.sliding_window:
            raise UserError(
                "layer_types has 'sliding_attention', and sliding_window is 0; give a window, or "
                "leave the types out."
            )

    @property
    def rotary(self) -> Rotary:
        """How positions rotate queries and keys."""
        scalings = {
            "none": None,
            "linear": LinearScaling(self.rope_factor),
            "llama3": Llama3Scaling(
                self.rope_factor,
                self.rope_low_factor,
                self.rope_high_factor,
                self.rope_original_length,
            ),
        }
        return Rotary(self.rope_theta, scalings[self.rope_scaling])

    @property
    def slides(self) -> tuple[bool, ...]:
        """For each layer, whether it has a sliding window; empty if none has."""
        if not self.sliding_window:
            return ()
        types = self.layer_types or ("sliding_attention",) * self.decoder_layers
        sliding = tuple(layer_type == "sliding_attention" for layer_type in types)
        return sliding if any(sliding) else ()

    @property
    def couplings(self) -> tuple[Coupling, ...]:
        """Whole heads are cut; query heads go with their key/value heads."""
        grouped = (Grouped("decoder/kv_heads", "decoder/heads"),) if self.num_kv_heads else ()
        return (Fixed("kv"), *grouped)


def resized_fields(sizes: Mapping[str, int]) -> dict[str, Any]:
    """The fields that sizes of axes, by key, stand for."""
    return {
        "vocab_size": sizes["vocab"],
        "embed_dim": sizes["embed"],
        "num_heads": sizes["decoder/heads"],
        "num_kv_heads": sizes.get("decoder/kv_heads", 0),
        "head_dim": sizes["decoder/kv"],
        "mlp_dim": sizes["decoder/mlp"],
        "decoder_layers": sizes["decoder/layers"],
    }


def inferred_fields(sizes: Mapping[str, int], paths: Collection[str]) -> dict[str, Any]:
    """The fields that sizes of axes and paths of parameters imply."""
    return {
        **resized_fields(sizes),
        "qkv_bias": "decoder/layers/self_attention/query/bias" in paths,
        "out_bias": "decoder/layers/self_attention/out/bias" in paths,
        "mlp_bias": "decoder/layers/mlp/wi_0/bias" in paths,
        "qk_norm": "decoder/layers/self_attention/query_norm/scale" in paths,
        "tie_embeddings": "logits_dense/kernel" not in paths,
    }


_LLAMA2 = LlamaConfig(
    vocab_size=32_000,
    embed_dim=4096,
    num_heads=32,
    head_dim=128,
    mlp_dim=11_008,
    decoder_layers=32,
    max_length=4096,
    dtype="bfloat16",
)
TINY = LlamaConfig(
    vocab_size=512,
    embed_dim=32,
    num_heads=4,
    head_dim=8,
    mlp_dim=64,
    decoder_layers=3,
    max_length=512,
)

NAMED: dict[str, LlamaConfig] = {
    "llama2_13b": _LLAMA2.replace(embed_dim=5120, num_heads=40, mlp_dim=13_824, decoder_layers=40),
    "llama2_7b": _LLAMA2,
    "llama2_3_4b": _LLAMA2.replace(embed_dim=3072, num_heads=24, mlp_dim=8192, decoder_layers=28),
    "llama2_2_7b": _LLAMA2.replace(embed_dim=2560, num_heads=20, mlp_dim=6912, decoder_layers=24),
    "llama3_1_8b": _LLAMA2.replace(
        vocab_size=128_256,
        num_kv_heads=8,
        mlp_dim=14_336,
        rope_theta=500_000.0,
        rope_scaling="llama3",
        rope_factor=8.0,
        max_length=131_072,
    ),
    "mistral_7b": _LLAMA2.replace(
        model_type="mistral",
        num_kv_heads=8,
        mlp_dim=14_336,
        sliding_window=4096,
        max_length=32_768,
    ),
    "qwen2_5_7b": _LLAMA2.replace(
        model_type="qwen2",
        vocab_size=152_064,
        embed_dim=3584,
        num_heads=28,
        num_kv_heads=4,
        mlp_dim=18_944,
        decoder_layers=28,
        qkv_bias=True,
        norm_epsilon=1e-6,
        rope_theta=1e6,
        max_length=131_072,
    ),
    "qwen3_8b": _LLAMA2.replace(
        model_type="qwen3",
        vocab_size=151_936,
        num_kv_heads=8,
        mlp_dim=12_288,
        decoder_layers=36,
        qk_norm=True,
        norm_epsilon=1e-6,
        rope_theta=1e6,
        max_length=40_960,
    ),
    "smollm2_135m": _LLAMA2.replace(
        vocab_size=49_152,
        embed_dim=576,
        num_heads=9,
        num_kv_heads=3,
        head_dim=64,
        mlp_dim=1536,
        decoder_layers=30,
        tie_embeddings=True,
        rope_theta=100_000.0,
        max_length=8192,
    ),
    "tiny_llama": TINY,
}

LARGEST = TINY.replace(
    num_kv_heads=2,
    qkv_bias=True,
    out_bias=True,
    mlp_bias=True,
    qk_norm=True,
)
"""Has every parameter that a LLaMA can have."""

LABELS = {
    "llama2_13b": "13B",
    "llama2_7b": "7B",
    "llama2_3_4b": "3.4B",
    "llama2_2_7b": "2.7B; the sizes given with it make 2.07B",
}
"""Labels of the original's tables, and where they are not the rounded count."""
