"""LLaMA, Mistral, Qwen 2 and 3 against what transformers answered (scripts/fixtures_llama.py)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from memory_checkpoint import MemoryCheckpoint

from openba_jax.checkpoints.checkpoint import load_tree
from openba_jax.checkpoints.formats.huggingface import HuggingFace
from openba_jax.checkpoints.registry import open_checkpoint
from openba_jax.errors import UserError
from openba_jax.inference.beam_search import generate_beams
from openba_jax.inference.decoding import generate
from openba_jax.models.base import Model
from openba_jax.models.registry import named_config

DATA = Path(__file__).parent / "data"
VARIANTS = sorted(folder.name for folder in DATA.iterdir())
TOLERANCE = 1e-4


class Golden(NamedTuple):
    """A model of transformers, and its inputs and answers."""

    name: str
    model: Model
    params: Any
    io: dict[str, np.ndarray]

    @property
    def prompts(self) -> np.ndarray:
        """The inputs as prompts: padded with what is no token."""
        real = np.arange(self.io["inputs"].shape[1]) < self.io["lengths"][:, None]
        return np.where(real, self.io["inputs"], self.model.padding)


@pytest.fixture(scope="module", params=VARIANTS)
def golden(request: pytest.FixtureRequest) -> Golden:
    checkpoint = open_checkpoint(DATA / request.param)
    params = jax.tree.map(jnp.asarray, load_tree(checkpoint))
    io = dict(np.load(DATA / request.param / "io.npz"))
    return Golden(request.param, checkpoint.model, params, io)


def logits(model: Model, params: Any, **batch: Any) -> np.ndarray:
    return np.asarray(model.head(params).logits(model.hidden(params, batch)))


def test_logits(golden: Golden) -> None:
    found = logits(golden.model, golden.params, decoder_input_tokens=golden.io["inputs"])
    real = golden.prompts >= 0
    np.testing.assert_allclose(found[real], golden.io["logits"][real], atol=TOLERANCE, rtol=0)


def test_packed_rows_are_as_rows_of_their_own(golden: Golden) -> None:
    inputs, lengths = golden.io["inputs"], golden.io["lengths"]
    parts = [row[:length] for row, length in zip(inputs, lengths, strict=True)]
    batch = {
        "decoder_input_tokens": np.concatenate(parts)[None],
        "decoder_segment_ids": np.repeat(np.arange(3) + 1, lengths)[None],
        "decoder_positions": np.concatenate([np.arange(n) for n in lengths])[None],
    }
    found = logits(golden.model, golden.params, **batch)[0]
    expected = golden.io["logits"][golden.prompts >= 0]
    np.testing.assert_allclose(found, expected, atol=TOLERANCE, rtol=0)


def test_unrolled_is_as_scanned(golden: Golden) -> None:
    unrolled = golden.model.replace(scan_layers=False)
    params = {**golden.params}
    decoder = dict(params["decoder"])
    layers = decoder.pop("layers")
    for n in range(unrolled.config.decoder_layers):
        decoder[f"layers_{n}"] = jax.tree.map(lambda leaf, n=n: leaf[n], layers)
    params["decoder"] = decoder
    batch = {"decoder_input_tokens": golden.io["inputs"]}
    np.testing.assert_allclose(
        logits(unrolled, params, **batch),
        logits(golden.model, golden.params, **batch),
        atol=TOLERANCE,
        rtol=0,
    )


def test_greedy_answers(golden: Golden) -> None:
    found = generate(
        golden.model,
        golden.params,
        golden.prompts,
        jax.random.key(0),
        max_new_tokens=10,
        stop_ids=(2,),
    )
    found = np.where(np.asarray(found) < 0, 0, found)
    np.testing.assert_array_equal(found, golden.io["greedy"])


def test_four_beams(golden: Golden) -> None:
    found = generate_beams(
        golden.model, golden.params, golden.prompts, beams=4, max_new_tokens=10, stop_ids=(2,)
    )
    sequences = np.asarray(found.sequences)[:, :, 1:]
    np.testing.assert_array_equal(np.where(sequences < 0, 0, sequences), golden.io["beams"])


@pytest.mark.parametrize("weights", ["safetensors", "torch"])
def test_what_is_written_is_what_was_read(golden: Golden, tmp_path: Path, weights: Any) -> None:
    source = open_checkpoint(DATA / golden.name)
    HuggingFace(weights).write(source, tmp_path)
    again = open_checkpoint(tmp_path)
    assert again.model == source.model
    jax.tree.map(np.testing.assert_array_equal, load_tree(again), load_tree(source))


def test_variants_that_the_network_lacks_are_named(tmp_path: Path) -> None:
    def refused(message: str, **changes: Any) -> None:
        fields = json.loads((DATA / "llama2" / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps({**fields, **changes}))
        with pytest.raises(UserError, match=message):
            open_checkpoint(tmp_path)

    weights = (DATA / "llama2" / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(weights)
    refused(r"model_type is 'mixtral'\. It is a mixture of experts", model_type="mixtral")
    refused("model_type is 'gpt2'; those that can be read", model_type="gpt2")
    refused(r"model_type is 'deepseek_v3'\. It has multi-latent", model_type="deepseek_v3")
    refused("of the type 'yarn'", rope_parameters={"rope_type": "yarn", "factor": 4.0})
    refused("factor of rotary positions is missing", rope_parameters={"rope_type": "linear"})
    refused(
        "factor is '4', which is no number", rope_parameters={"rope_type": "linear", "factor": "4"}
    )
    refused(r"is \[1\], which is no object", rope_parameters=[1])
    refused("rms_norm_eps is 'x', which is no number", rms_norm_eps="x")
    refused("num_attention_heads is 0; it must be at least 1", num_attention_heads=0)
    refused("hidden_act is 'gelu'", hidden_act="gelu")
    refused("num_kv_heads is 3, which does not divide", num_key_value_heads=3)
    refused("no whole number", hidden_size="wide")
    refused("has shape .* asks for", intermediate_size=49)


def test_layers_that_slide_have_a_window() -> None:
    with pytest.raises(UserError, match="layer_types has 'sliding_attention', and sliding_window"):
        named_config("tiny_llama", layer_types=("full_attention",) * 2 + ("sliding_attention",))


def test_dropout_of_a_training_is_left_out_with_a_word(tmp_path: Path, caplog) -> None:
    config = open_checkpoint(DATA / "llama2").model.config.replace(dropout_rate=0.1)
    HuggingFace().write(MemoryCheckpoint(config), tmp_path)
    assert "dropout_rate 0.1 is left out" in caplog.text
    assert open_checkpoint(tmp_path).model.config.dropout_rate == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"qk_norm": True}, "qk_norm is True, and Hugging Face's llama"),
        ({"sliding_window": 4}, "slides is"),
        ({"model_type": "qwen2"}, "qkv_bias is False"),
        ({"num_heads": 3}, "no multiple of the 3 heads"),
    ],
)
def test_what_an_architecture_cannot_say_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    config = open_checkpoint(DATA / "llama2").model.config.replace(**changes)
    with pytest.raises(UserError, match=message):
        HuggingFace().write(MemoryCheckpoint(config), tmp_path)
    assert not list(tmp_path.iterdir())
