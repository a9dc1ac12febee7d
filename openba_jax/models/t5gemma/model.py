"""T5Gemma as a `Model`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Self

from openba_jax.models.axes import Coupling
from openba_jax.models.base import Params
from openba_jax.models.encoder_decoder import EncoderDecoder
from openba_jax.models.t5gemma.config import (
    COUPLINGS,
    EOS_ID,
    LOCAL,
    StackSizes,
    T5GemmaConfig,
    resized_fields,
)
from openba_jax.models.t5gemma.network import T5Gemma, output_head
from openba_jax.nn.losses import Head


@dataclasses.dataclass(frozen=True)
class T5GemmaModel(EncoderDecoder):
    """The encoder-decoder of T5Gemma; its stacks may differ in every size but the vocabulary."""

    frame: ClassVar[str] = "pair"

    config: T5GemmaConfig

    @property
    def module(self) -> T5Gemma:
        """The linen module."""
        return T5Gemma(self.config)

    @property
    def couplings(self) -> tuple[Coupling, ...]:
        """What holds between its axes."""
        return COUPLINGS

    def resized(self, sizes: Mapping[str, int], **fields: Any) -> Self:
        """The model with other sizes of axes, by key."""
        if sizes["vocab"] != self.config.vocab_size:
            fields = {"eos_ids": (EOS_ID,), **fields}
        return self.replace(**resized_fields(sizes), **fields)

    def head(self, params: Params) -> Head:
        """The kernel, tied or not, and the bound on the logits."""
        decoder = params["decoder"]
        tied = self.config.tie_embeddings
        kernel = (
            decoder["token_embedder"]["embedding"].T if tied else decoder["logits_dense"]["kernel"]
        )
        return output_head(self.config, kernel)

    def forward_flops(self, encoder_length: int, decoder_length: int) -> float:
        """Model FLOPs of one forward pass over one example.

        Of causal and of local attention only the pairs that see each other are counted.
        """
        te, td = encoder_length, decoder_length
        config = self.config
        encoder, decoder = config.encoder, config.decoder
        projections, mlp = _projections(encoder), 3 * encoder.embed_dim * encoder.mlp_dim
        flops = float(encoder.layers * 2 * te * (projections + mlp))
        a = encoder.num_heads * encoder.head_dim
        for kind in encoder.layer_types:
            reach = encoder.sliding_window if kind == LOCAL else te
            flops += 4 * a * _pairs_in_both_directions(te, reach)
        a, k = (n * decoder.head_dim for n in (decoder.num_heads, decoder.num_kv_heads))
        flops += decoder.layers * (
            2 * td * self._decoder_products
            + 4 * te * encoder.embed_dim * k  # keys and values of cross-attention
            + 4 * te * td * a
        )
        for kind in decoder.layer_types:
            window = decoder.sliding_window if kind == LOCAL else td
            flops += 4 * a * _causal_pairs(td, window)
        return flops + 2 * td * config.vocab_size * decoder.embed_dim

    def decode_flops(self, encoder_length: int, position: int) -> float:
        """FLOPs of one cached step, cross-attention keys and values already projected."""
        config, decoder = self.config, self.config.decoder
        flops = decoder.layers * 2 * self._decoder_products
        for kind in decoder.layer_types:
            seen = position + 1
            if kind == LOCAL:
                seen = min(seen, decoder.sliding_window)
            flops += 4 * (encoder_length + seen) * decoder.num_heads * decoder.head_dim
        return float(flops + 2 * config.vocab_size * decoder.embed_dim)

    @property
    def _decoder_products(self) -> int:
        """Weights of a decoder layer that every one of its tokens meets."""
        decoder = self.config.decoder
        cross = 2 * decoder.embed_dim * decoder.num_heads * decoder.head_dim  # queries and outputs
        return _projections(decoder) + cross + 3 * decoder.embed_dim * decoder.mlp_dim


def _projections(sizes: StackSizes) -> int:
    """Weights of self-attention: queries and outputs, keys and values."""
    return 2 * sizes.embed_dim * (sizes.num_heads + sizes.num_kv_heads) * sizes.head_dim


def _pairs_in_both_directions(length: int, reach: int) -> int:
    """Pairs of positions that lie at most `reach` apart."""
    reach = min(reach, length - 1)
    return length * (2 * reach + 1) - reach * (reach + 1)


def _causal_pairs(length: int, window: int) -> float:
    """Pairs of a position and itself or one before, less than `window` apart.

    The diagonal counts half, as in the square of the length over two that other families have.
    """
    window = min(window, length)
    return length * (window - 0.5) - window * (window - 1) / 2
