"""OpenBA as a `Model`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Self

from openba_jax.models.axes import Coupling
from openba_jax.models.base import BeamRules, Params
from openba_jax.models.encoder_decoder import EncoderDecoder
from openba_jax.models.openba.config import COUPLINGS, OpenBAConfig, resized_fields
from openba_jax.models.openba.network import OpenBA, output_head
from openba_jax.nn.losses import Head


@dataclasses.dataclass(frozen=True)
class OpenBAModel(EncoderDecoder):
    """The asymmetric encoder-decoder of OpenBA and OpenBA-V2."""

    beam_rules: ClassVar[BeamRules] = "transformers_4"

    config: OpenBAConfig

    @property
    def module(self) -> OpenBA:
        """The linen module."""
        return OpenBA(self.config)

    @property
    def couplings(self) -> tuple[Coupling, ...]:
        """What holds between its axes."""
        return COUPLINGS

    def resized(self, sizes: Mapping[str, int], **fields: Any) -> Self:
        """The model with other sizes of axes, by key."""
        return self.replace(**resized_fields(sizes), **fields)

    def head(self, params: Params) -> Head:
        """The kernel, tied or not, the bias if any, and the scale of the logits."""
        own = params.get("logits_dense", {})
        tied = self.config.tie_embeddings
        kernel = params["token_embedder"]["embedding"].T if tied else own["kernel"]
        return output_head(self.config, kernel, own.get("bias"))

    def forward_flops(self, encoder_length: int, decoder_length: int) -> float:
        """Model FLOPs of one forward pass over one example, causal attention counted half."""
        te, td = encoder_length, decoder_length
        e, a, f = self._widths
        encoder_layer = 2 * te * (4 * e * a + 3 * e * f) + 4 * te * te * a
        decoder_layer = (
            2 * td * (6 * e * a + 3 * e * f)  # self-attention, queries and outputs of cross, SwiGLU
            + 4 * te * e * a  # keys and values of cross-attention
            + 2 * td * td * a
            + 4 * te * td * a
        )
        config = self.config
        layers = config.encoder_layers * encoder_layer + config.decoder_layers * decoder_layer
        return float(layers + 2 * td * config.vocab_size * e)

    def decode_flops(self, encoder_length: int, position: int) -> float:
        """FLOPs of one cached step, cross-attention keys and values already projected."""
        e, a, f = self._widths
        layer = 2 * (6 * e * a + 3 * e * f) + 4 * (encoder_length + position + 1) * a
        return float(self.config.decoder_layers * layer + 2 * self.config.vocab_size * e)

    @property
    def _widths(self) -> tuple[int, int, int]:
        config = self.config
        return config.embed_dim, config.num_heads * config.head_dim, config.mlp_dim
