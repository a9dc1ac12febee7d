"""Sampling by rows keeps the tokens that sampling with one setting keeps."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from openba_jax.inference import decoding, row_sampling
from openba_jax.inference.decoding import Sampling
from openba_jax.inference.row_sampling import RowSampling, choose_tokens, row_settings

LOGITS = jnp.array([2.0, 1.0, 1.0, 0.5, -1.0, -3.0])


def _rows(sampling: Sampling, count: int) -> RowSampling:
    row = row_settings(sampling, 4)
    rows = jax.tree.map(lambda x: jnp.broadcast_to(x, (count,)), row)
    return rows._replace(step=jnp.arange(count))


SETTINGS = [
    Sampling(1.0),
    Sampling(2.0, top_k=2),
    Sampling(1.0, top_p=0.5),
    Sampling(1.5, top_k=4, top_p=0.7),
    Sampling(1.0, top_k=100),
]


def test_rows_keep_the_tokens_that_one_setting_keeps() -> None:
    logits = jax.random.normal(jax.random.key(1), (len(SETTINGS), 40)).round(1)  # With ties.
    rows = [row_settings(sampling, 0) for sampling in SETTINGS]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *rows)
    found = row_sampling._limit(logits / stacked.temperature[:, None], stacked)
    wanted = [
        decoding.warp_logits(row[None], sampling)[0]
        for row, sampling in zip(logits, SETTINGS, strict=True)
    ]
    np.testing.assert_array_equal(found, jnp.stack(wanted))


@pytest.mark.parametrize("sampling", SETTINGS)
def test_frequencies_are_those_of_one_setting(sampling: Sampling) -> None:
    count = 4000
    logits = jnp.broadcast_to(LOGITS, (count, LOGITS.size))
    found = choose_tokens(logits, _rows(sampling, count))
    wanted = decoding.choose_tokens(logits, sampling, jax.random.key(0))
    frequencies = [np.bincount(np.asarray(x), minlength=LOGITS.size) for x in (found, wanted)]
    assert ((frequencies[0] > 0) == (frequencies[1] > 0)).all()
    np.testing.assert_allclose(frequencies[0] / count, frequencies[1] / count, atol=0.05)


def test_rows_with_and_without_sampling_go_together() -> None:
    rows = [row_settings(s, 1) for s in (Sampling(), Sampling(1.0, top_k=1), Sampling(5.0))]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *rows)
    tokens = choose_tokens(jnp.tile(LOGITS, (3, 1)), stacked)
    assert tokens[0] == tokens[1] == 0


def test_top_k_of_one_temperature_does_not_touch_greedy_rows() -> None:
    # The likeliest token, also where a row asks for limits that it does not use.
    row = row_settings(Sampling(0.0, top_k=3, top_p=0.1), 0)
    stacked = jax.tree.map(lambda x: x[None], row)
    assert choose_tokens(LOGITS[None, ::-1], stacked).tolist() == [5]
