"""T5 as a `Model`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Self

from openba_jax.models.axes import Coupling
from openba_jax.models.base import Params
from openba_jax.models.encoder_decoder import EncoderDecoder
from openba_jax.models.t5.config import T5Config, couplings, resized_fields
from openba_jax.models.t5.network import T5
from openba_jax.nn.losses import Head


@dataclasses.dataclass(frozen=True)
class T5Model(EncoderDecoder):
    """The encoder-decoder of T5, mT5, Flan-T5 and UL2."""

    frame: ClassVar[str] = "end"
    memory: ClassVar[str] = "encoder_decoder_attention"

    config: T5Config

    @property
    def module(self) -> T5:
        """The linen module."""
        return T5(self.config)

    @property
    def couplings(self) -> tuple[Coupling, ...]:
        """What holds between its axes."""
        return couplings(self.config)

    def resized(self, sizes: Mapping[str, int], **fields: Any) -> Self:
        """The model with other sizes of axes, by key."""
        return self.replace(**resized_fields(sizes), **fields)

    def head(self, params: Params) -> Head:
        """The kernel, tied or not, and the scale of the logits."""
        if self.config.tie_embeddings:
            kernel = params["token_embedder"]["embedding"].T
        else:
            kernel = params["decoder"]["logits_dense"]["kernel"]
        return Head(kernel, None, self.config.logits_scale)

    def forward_flops(self, encoder_length: int, decoder_length: int) -> float:
        """Model FLOPs of one forward pass over one example, causal attention counted half.

        The position biases, `2 heads buckets` for each distance and stack, are not counted.
        """
        te, td = encoder_length, decoder_length
        e, a, f = self._widths
        encoder_layer = 2 * te * (4 * e * a + f) + 4 * te * te * a
        decoder_layer = (
            2 * td * (6 * e * a + f)  # self-attention, queries and outputs of cross, feed-forward
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
        layer = 2 * (6 * e * a + f) + 4 * (encoder_length + position + 1) * a
        return float(self.config.decoder_layers * layer + 2 * self.config.vocab_size * e)

    @property
    def _widths(self) -> tuple[int, int, int]:
        """Channels, channels of all heads, and parameters of a feed-forward layer."""
        config = self.config
        matrices = 3 if config.gated_mlp else 2
        return (
            config.embed_dim,
            config.num_heads * config.head_dim,
            matrices * config.embed_dim * config.mlp_dim,
        )
