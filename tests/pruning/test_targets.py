"""Rules for the sizes that other tools take."""

from __future__ import annotations

import pytest

from openba_jax.models.registry import families, model_of, named_config
from openba_jax.pruning.targets import FAMILIES, TOOLS, misfits


def found(name: str, *tools: str, **changes) -> set[str]:
    sentences = misfits(model_of(named_config(name, **changes)), tools or TOOLS)
    return {sentence.partition(";")[0] for sentence in sentences}


@pytest.mark.parametrize("name", ["llama2_7b", "llama2_3_4b", "llama3_1_8b", "qwen2_5_7b"])
def test_published_sizes_are_fine(name: str) -> None:
    assert found(name) == set()


def test_each_rule_speaks_of_its_own_tool() -> None:
    sizes = {"embed_dim": 3080, "num_heads": 24, "head_dim": 72, "mlp_dim": 8200}
    sizes["vocab_size"] = 32_001
    assert found("llama2_7b", "transformers", **sizes) == {
        "transformers: embed is 3080 and not a multiple of the heads"
    }
    assert found("llama2_7b", "ctranslate2", **sizes) == {
        "ctranslate2: heads x kv is 1728 and not as large as embed"
    }
    assert found("llama2_7b", "vllm", **sizes) == {
        "vllm: kv is 72 and not 64, 80, 96, 112, 120, 128, 192 or 256",
        "vllm: vocab is 32001 and not a multiple of 64",
    }
    assert found("llama2_7b", "gguf", **sizes) == {
        "gguf: embed is 3080 and not a multiple of 32",
        "gguf: heads x kv is 1728 and not a multiple of 256",
        "gguf: mlp is 8200 and not a multiple of 32",
    }
    assert {line.split()[1] for line in found("llama2_7b", "tpu", **sizes)} == {
        *("embed", "mlp", "vocab", "kv")
    }


def test_rules_of_an_architecture_leave_others_alone() -> None:
    assert found("qwen3_8b", "ctranslate2", "transformers", embed_dim=3080) == set()
    assert found("openba_v2_3_4b", "tpu") == set()


def test_both_stacks_are_looked_at_and_nothing_is_said_twice() -> None:
    assert found("tiny_t5", "gguf", mlp_dim=48) == {
        *(f"gguf: {axes} is 32 and not a multiple of 256" for axes in ("embed", "joined_kv")),
        "gguf: mlp is 48 and not a multiple of 32",
    }
    assert len(misfits(model_of(named_config("tiny_t5", mlp_dim=48)), ["gguf"])) == 3


def test_a_family_that_a_tool_lacks_is_named_whatever_its_sizes() -> None:
    sentences = misfits(model_of(named_config("tiny")), TOOLS)
    lacking = [line for line in sentences if "no network of the family openba" in line]
    assert [line.split(":")[0] for line in lacking] == [
        "gguf",
        "transformers",
        "ctranslate2",
        "vllm",
    ]
    assert all(line in lacking or line.startswith("tpu") for line in sentences)
    assert misfits(model_of(named_config("t5_small")), ["gguf"]) == []


def test_the_families_of_gguf_are_those_that_can_be_written() -> None:
    assert FAMILIES["gguf"] == tuple(sorted(each.name for each in families() if each.gguf))
