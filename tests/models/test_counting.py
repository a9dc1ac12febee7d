"""The counts of the published stages, and FLOPs against XLA's own count."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import pytest

from openba_jax.inspect import sizes
from openba_jax.models.base import Model
from openba_jax.models.counting import (
    parameter_bytes,
    parameter_count,
    train_flops_per_example,
)
from openba_jax.models.padding import padded_vocab_size
from openba_jax.models.registry import model_of, named_config

TIED = {
    "openba_15b": 14_567_703_040,
    "stage1_12b": 12_310_714_880,
    "stage2_11b": 10_963_032_576,
    "stage3_10b": 10_053_726_720,
    "stage4_3_8b": 3_808_926_208,
    "stage5_3_8b": 3_808_926_208,
    "openba_v2_3_4b": 3_475_545_472,
}


def named(name: str, **changes: Any) -> Model:
    return model_of(named_config(name, **changes))


@pytest.mark.parametrize(("name", "count"), TIED.items())
def test_tied_counts(name: str, count: int) -> None:
    assert parameter_count(named(name)) == count


@pytest.mark.parametrize(
    ("name", "vocab_size", "tied", "count"),
    [
        ("openba_15b", 250_368, False, 15_593_210_368),
        ("stage3_10b", 250_240, False, 11_078_185_344),
        ("stage4_3_8b", 250_240, True, 3_808_598_400),
        ("stage4_3_8b", 250_880, True, 3_810_237_440),
        ("openba_v2_3_4b", 120_192, False, 3_783_236_992),
        ("openba_v2_3_4b", 100_224, True, 3_424_407_424),
        ("openba_v2_3_4b", 20_224, True, 3_219_527_424),
    ],
)
def test_counts_of_other_heads(name: str, vocab_size: int, tied: bool, count: int) -> None:
    model = named(name, vocab_size=vocab_size, tie_embeddings=tied)
    assert parameter_count(model) == count


def test_unrolling_changes_no_count() -> None:
    model = named("small")
    assert parameter_count(model.replace(scan_layers=False)) == parameter_count(model)


def test_bytes() -> None:
    assert parameter_bytes(named("tiny"), "bfloat16") == 2 * parameter_count(named("tiny"))


def test_training_flops_of_the_design() -> None:
    flops = train_flops_per_example(named("stage4_3_8b"), 570, 380)
    assert flops == pytest.approx(10.05e12, rel=2e-3)


def test_forward_flops_agree_with_the_compiler() -> None:
    model = named("small", scan_layers=False, vocab_size=2048)
    params = model.abstract_params()
    encoder_length, decoder_length = 128, 64
    compiled = (
        jax.jit(lambda p, e, d: model.module.apply({"params": p}, e, d, enable_dropout=False))
        .lower(
            params,
            jax.ShapeDtypeStruct((1, encoder_length), jnp.int32),
            jax.ShapeDtypeStruct((1, decoder_length), jnp.int32),
        )
        .compile()
    )
    counted = model.forward_flops(encoder_length, decoder_length)
    # The compiler counts whole causal scores, softmax, norms and rotations too.
    assert counted == pytest.approx(compiled.cost_analysis()["flops"], rel=0.06)
    assert counted < compiled.cost_analysis()["flops"]


def test_padded_vocab_size() -> None:
    assert [padded_vocab_size(n) for n in (1, 128, 129, 250_204)] == [128, 128, 256, 250_240]


def test_table_names_where_the_paper_differs() -> None:
    table = {row[0]: row for row in sizes.rows(["stage3_10b", "openba_v2_3_4b_100k"], 570, 380)}
    assert table["stage3_10b"][7] == "10,053,726,720"
    assert table["stage3_10b"][-1].startswith("9.9B; ")
    assert table["openba_v2_3_4b_100k"][7] == "3,424,407,424"


def test_table_shows_grouped_heads() -> None:
    table = {row[0]: row for row in sizes.rows(["llama2_7b", "llama3_1_8b"], 570, 380)}
    assert table["llama2_7b"][2:8] == ["32", "4,096", "32x128", "11,008", "32,000", "6,738,415,616"]
    assert table["llama3_1_8b"][4] == "32/8x128"
    assert table["llama3_1_8b"][7] == "8,030,261,248"
