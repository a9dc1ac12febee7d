"""LLaMA as a `Model`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Self

from openba_jax.models.axes import Coupling
from openba_jax.models.base import Params
from openba_jax.models.decoder_only import DecoderOnly
from openba_jax.models.llama.config import LlamaConfig, resized_fields
from openba_jax.models.llama.network import Llama
from openba_jax.nn.losses import Head


@dataclasses.dataclass(frozen=True)
class LlamaModel(DecoderOnly):
    """A decoder with RMS norms, SwiGLU and rotary positions."""

    config: LlamaConfig

    @property
    def module(self) -> Llama:
        """The linen module."""
        return Llama(self.config)

    @property
    def couplings(self) -> tuple[Coupling, ...]:
        """What holds between its axes."""
        return self.config.couplings

    def resized(self, sizes: Mapping[str, int], **fields: Any) -> Self:
        """The model with other sizes of axes, by key."""
        return self.replace(**resized_fields(sizes), **fields)

    def head(self, params: Params) -> Head:
        """The kernel, tied or not."""
        if self.config.tie_embeddings:
            return Head(params["token_embedder"]["embedding"].T, None)
        return Head(params["logits_dense"]["kernel"], None)

    def forward_flops(self, encoder_length: int, decoder_length: int) -> float:
        """Model FLOPs of one forward pass over inputs and targets, attention counted half."""
        length = encoder_length + decoder_length
        config = self.config
        attended = sum(
            2.0 * length * min(length, 2 * window) * self._heads_width for window in self._windows
        )
        dense = 2.0 * length * self._layer_weights * config.decoder_layers
        return dense + attended + 2.0 * length * config.vocab_size * config.embed_dim

    def decode_flops(self, encoder_length: int, position: int) -> float:
        """FLOPs of one cached decoding step after `encoder_length + position` tokens."""
        config = self.config
        seen = encoder_length + position + 1
        attended = sum(4.0 * min(seen, window) * self._heads_width for window in self._windows)
        dense = 2.0 * self._layer_weights * config.decoder_layers
        return dense + attended + 2.0 * config.vocab_size * config.embed_dim

    @property
    def _windows(self) -> list[int]:
        """For each layer the positions that a query sees at most."""
        config = self.config
        slides = config.slides or (False,) * config.decoder_layers
        return [config.sliding_window if each else 2**31 for each in slides]

    @property
    def _heads_width(self) -> int:
        return self.config.num_heads * self.config.head_dim

    @property
    def _layer_weights(self) -> int:
        """Elements of the matrices of one layer."""
        config = self.config
        keys = (config.num_kv_heads or config.num_heads) * config.head_dim
        return config.embed_dim * (2 * self._heads_width + 2 * keys + 3 * config.mlp_dim)
