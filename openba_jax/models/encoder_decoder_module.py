"""What the modules of encoder-decoder families share: T5X's contract (docs/architecture.md)."""

from __future__ import annotations

from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp

from openba_jax.nn.attention import AttentionMask


class EncoderDecoderModule(nn.Module):
    """A network whose methods have the names and arguments that T5X calls.

    Tokens are int32 (T5X initialises with float32: cast them), id 0 is padding. Where segment ids
    are given, they alone say which positions are real (id > 0) and which belong together. A family
    defines `encode`, `decode_hidden` and `logits`.
    """

    def decode(
        self,
        encoded: jax.Array,
        encoder_input_tokens: jax.Array,
        decoder_input_tokens: jax.Array,
        decoder_target_tokens: jax.Array | None = None,
        encoder_segment_ids: jax.Array | None = None,
        decoder_segment_ids: jax.Array | None = None,
        decoder_positions: jax.Array | None = None,
        *,
        enable_dropout: bool = True,
        decode: bool = False,
        max_decode_length: int | None = None,
        prefill: bool = False,
        prefill_lengths: jax.Array | None = None,
    ) -> jax.Array:
        """Decodes, by teacher forcing or with the cache.

        Args:
          encoded: `[batch, encoder_length, embed]`.
          encoder_input_tokens: int `[batch, encoder_length]`, for the mask.
          decoder_input_tokens: int `[batch, length]`, start id 0 first.
          decoder_target_tokens: not read; part of the T5X contract.
          encoder_segment_ids: int `[batch, encoder_length]`, for packed batches.
          decoder_segment_ids: int `[batch, length]`, for packed batches.
          decoder_positions: int `[batch, length]`, for packed batches.
          enable_dropout: apply dropout; needs a `dropout` rng.
          decode: use the mutable collection `cache`. A call that finds none makes it, from
            `encoded`, and takes no step.
          max_decode_length: positions that a new cache holds.
          prefill: the tokens are whole prompts, padded on the right.
          prefill_lengths: int32 `[batch]`, lengths of those prompts.

        Returns:
          Float32 logits `[batch, length, vocab]`.
        """
        del decoder_target_tokens
        network = cast(Any, self)
        hidden = network.decode_hidden(
            encoded,
            encoder_input_tokens,
            decoder_input_tokens,
            encoder_segment_ids,
            decoder_segment_ids,
            decoder_positions,
            enable_dropout=enable_dropout,
            decode=decode,
            max_decode_length=max_decode_length,
            prefill_lengths=prefill_lengths if prefill else None,
        )
        return cast(jax.Array, network.logits(hidden))

    def hidden_states(
        self,
        encoder_input_tokens: jax.Array,
        decoder_input_tokens: jax.Array,
        decoder_target_tokens: jax.Array | None = None,
        encoder_segment_ids: jax.Array | None = None,
        decoder_segment_ids: jax.Array | None = None,
        encoder_positions: jax.Array | None = None,
        decoder_positions: jax.Array | None = None,
        *,
        enable_dropout: bool = True,
        decode: bool = False,
    ) -> jax.Array:
        """The decoder output `[batch, length, embed]`; arguments as `__call__`."""
        del decoder_target_tokens
        network = cast(Any, self)
        encoded = network.encode(
            encoder_input_tokens,
            encoder_segment_ids,
            encoder_positions,
            enable_dropout=enable_dropout,
        )
        hidden = network.decode_hidden(
            encoded,
            encoder_input_tokens,
            decoder_input_tokens,
            encoder_segment_ids,
            decoder_segment_ids,
            decoder_positions,
            enable_dropout=enable_dropout,
            decode=decode,
        )
        return cast(jax.Array, hidden)

    def __call__(self, *tokens: Any, **arguments: Any) -> jax.Array:
        """Float32 logits `[batch, length, vocab]`; the arguments are those of `hidden_states`."""
        return cast(jax.Array, cast(Any, self).logits(self.hidden_states(*tokens, **arguments)))


def token_positions(tokens: jax.Array, positions: jax.Array | None) -> jax.Array:
    """Given positions, or 0, 1, 2, ... whatever the padding."""
    return jnp.arange(tokens.shape[1])[None] if positions is None else positions


def encoder_mask(tokens: jax.Array, segment_ids: jax.Array | None) -> AttentionMask:
    """Keys that are real and, when packed, of the query's segment."""
    if segment_ids is None:
        return AttentionMask(keys=tokens > 0, real_first=True)
    return AttentionMask(keys=segment_ids > 0, query_segments=segment_ids, key_segments=segment_ids)


def decoder_mask(segment_ids: jax.Array | None) -> AttentionMask:
    """Keys that are not behind the query and, when packed, of its segment."""
    return AttentionMask(causal=True, query_segments=segment_ids, key_segments=segment_ids)


def cross_mask(
    encoder_tokens: jax.Array,
    encoder_segment_ids: jax.Array | None,
    decoder_segment_ids: jax.Array | None,
) -> AttentionMask:
    """Encoder keys that are real and, when packed, of the query's segment."""
    if encoder_segment_ids is None:
        return AttentionMask(keys=encoder_tokens > 0, real_first=True)
    return AttentionMask(
        keys=encoder_segment_ids > 0,
        query_segments=decoder_segment_ids,
        key_segments=encoder_segment_ids,
    )
