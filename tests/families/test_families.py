"""Every family keeps the contract: a small configuration, and one with every parameter."""

from __future__ import annotations

from families.contract import FamilyContract

from openba_jax.models.registry import family, named_config


class TestOpenBA(FamilyContract):
    config = named_config("tiny")


class TestLargestOpenBA(FamilyContract):
    config = family("openba").largest


class TestLlama(FamilyContract):
    config = named_config("tiny_llama", tie_embeddings=True)


class TestLargestLlama(FamilyContract):
    config = family("llama").largest
    huggingface_refuses = "qk_norm"


class TestSlidingLlama(FamilyContract):
    config = named_config(
        "tiny_llama",
        num_kv_heads=2,
        sliding_window=3,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        model_type="qwen2",
        qkv_bias=True,
    )


class TestT5(FamilyContract):
    config = named_config("tiny_t5")
    tested_apart = ("embed",)  # Tied logits are scaled by the width.


class TestGatedT5(FamilyContract):
    config = named_config("tiny_t5_1_1")


class TestT5Gemma(FamilyContract):
    config = named_config("tiny_t5gemma_unbalanced")
    tested_apart = ("encoder/embed", "decoder/embed")  # Embeddings are scaled by the width.
    counts_pairs = True
