r"""What a token costs in T5X: this network against T5X's own T5 network of the same size.

python scripts/benchmarks/t5x_decoding.py [--encoder_length=570] [--new_tokens=32]

T5X's network projects the encoder output to keys and values again for every token and beam, unless
the compiler moves that out of the loop; this one does so once for each example. Both decode in
T5X's `predict_batch_with_aux`, greedily with T5X's `temperature_sample`, and with four beams with
T5X's `beam_search`; this network once more with its own beam search. Needs T5X (docs/t5x.md).
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import seqio
from t5x import decoding as t5x_decoding
from t5x import models
from t5x.examples.t5 import network as t5_network

from openba_jax.models.openba.config import OpenBAConfig
from openba_jax.models.registry import model_of
from openba_jax.t5x import decoding
from openba_jax.t5x.model import EncoderDecoderModel

NEVER = 1_000_000
"""An end-of-sequence id that no network finds, so that all decode to the end."""


def openba_model(config: OpenBAConfig, decode_fn: Callable[..., Any]) -> tuple[Any, Any]:
    """This network under T5X, and random parameters."""
    vocabulary = seqio.PassThroughVocabulary(config.vocab_size, eos_id=1)
    model = EncoderDecoderModel(config, vocabulary, None, decode_fn)
    return model, jax.jit(model_of(config).init)(jax.random.key(0))


def t5_model(config: OpenBAConfig, decode_fn: Callable[..., Any]) -> tuple[Any, Any]:
    """T5X's network of the same sizes, and random parameters."""
    vocabulary = seqio.PassThroughVocabulary(config.vocab_size, eos_id=1)
    module = t5_network.Transformer(
        t5_network.T5Config(
            vocab_size=config.vocab_size,
            dtype=config.dtype,
            emb_dim=config.embed_dim,
            num_heads=config.num_heads,
            num_encoder_layers=config.encoder_layers,
            num_decoder_layers=config.decoder_layers,
            head_dim=config.head_dim,
            mlp_dim=config.mlp_dim,
            mlp_activations=("silu", "linear"),
            dropout_rate=0.0,
            logits_via_embedding=True,
        )
    )
    model = models.EncoderDecoderModel(module, vocabulary, vocabulary, None, decode_fn)
    shapes = {"encoder_input_tokens": (1, 2), "decoder_input_tokens": (1, 2)}
    init = jax.jit(functools.partial(model.get_initial_variables, input_shapes=shapes))
    return model, init(jax.random.PRNGKey(0))["params"]


def prediction(
    model: Any, params: Any, batch: dict[str, jax.Array], beams: int
) -> Callable[[], Any]:
    """One run, compiled."""

    @jax.jit
    def predict(params: Any, batch: dict[str, jax.Array]) -> jax.Array:
        ends = {} if model.decode_fn is decoding.beam_search else {"eos_id": NEVER}
        found, _ = model.predict_batch_with_aux(
            params, batch, num_decodes=beams, decoder_params=dict(ends)
        )
        return found

    jax.block_until_ready(predict(params, batch))
    return functools.partial(predict, params, batch)


def seconds(*runs: Callable[[], Any]) -> list[float]:
    """The best of five of each, taken in turn: what else the machine does slows all of them."""
    times: list[list[float]] = [[] for _ in runs]
    for _ in range(5):
        for run, found in zip(runs, times, strict=True):
            start = time.perf_counter()
            jax.block_until_ready(run())
            found.append(time.perf_counter() - start)
    return [min(found) for found in times]


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--encoder_length", type=int, default=570)
    parser.add_argument("--new_tokens", type=int, default=32)
    arguments = parser.parse_args()
    config = OpenBAConfig(
        vocab_size=4096,
        embed_dim=256,
        num_heads=4,
        head_dim=64,
        mlp_dim=704,
        encoder_layers=2,
        decoder_layers=6,
        # So unlikely an end that beams go on as long as the others.
        logits_bias=True,
    )
    rng = np.random.default_rng(0)
    shape = (arguments.batch, arguments.encoder_length)
    batch = {
        "encoder_input_tokens": jnp.asarray(rng.integers(3, 4096, shape), jnp.int32),
        "decoder_input_tokens": jnp.zeros((arguments.batch, arguments.new_tokens), jnp.int32),
    }
    print(
        f"{jax.devices()[0].device_kind}, batch {arguments.batch}, "
        f"{arguments.encoder_length} input tokens, {arguments.new_tokens} new tokens"
    )
    greedy = functools.partial(t5x_decoding.temperature_sample, temperature=0.0)
    rows = [
        ("greedy", 1, greedy, greedy),
        ("4 beams, T5X's search", 4, t5x_decoding.beam_search, t5x_decoding.beam_search),
        ("4 beams, each its own search", 4, t5x_decoding.beam_search, decoding.beam_search),
    ]
    for name, beams, theirs, ours in rows:
        their_model, their_params = t5_model(config, theirs)
        our_model, our_params = openba_model(config, ours)
        if ours is decoding.beam_search:
            bias = our_params["logits_dense"]["bias"].at[1].set(-1e6)
            our_params = {**our_params, "logits_dense": {"bias": bias}}
        t5, openba = seconds(
            prediction(their_model, their_params, batch, beams),
            prediction(our_model, our_params, batch, beams),
        )
        per_token = 1e3 / arguments.new_tokens
        print(
            f"{name:30s} T5X's T5 {per_token * t5:8.2f} ms/token   OpenBA "
            f"{per_token * openba:8.2f} ms/token   ratio {openba / t5:.3f}"
        )


if __name__ == "__main__":
    main()
