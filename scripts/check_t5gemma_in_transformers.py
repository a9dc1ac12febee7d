"""Whether transformers computes what this package does, for T5Gemma folders that it wrote.

python scripts/check_t5gemma_in_transformers.py write FOLDER   (with this package)
python scripts/check_t5gemma_in_transformers.py check FOLDER   (with torch and transformers)

The first makes a random model for every switch of the family, and one that is cut along every axis,
writes each in Hugging Face's format, with safetensors and `.bin` by turns, and puts inputs and
logits beside it. The second loads each
folder with stock transformers, and prints and bounds the largest difference of the logits.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

TOLERANCE = 1e-4

SWITCHES: dict[str, dict[str, object]] = {
    "as_published": {},
    "untied": {"tie_embeddings": False},
    "biases": {"attention_bias": True},
    "no_attention_softcap": {"attention_softcap": 0.0},
    "no_final_softcap": {"final_softcap": 0.0},
    "tight_softcaps": {"attention_softcap": 1.0, "final_softcap": 2.0},
    "all_local": {
        "encoder_layer_types": ("sliding_attention",) * 4,
        "decoder_layer_types": ("sliding_attention",) * 3,
    },
    "all_global": {
        "encoder_layer_types": ("full_attention",) * 4,
        "decoder_layer_types": ("full_attention",) * 3,
    },
    "theta_and_scalars": {
        "rope_theta": 500.0,
        "encoder_query_pre_attn_scalar": 3,
        "decoder_query_pre_attn_scalar": 20,
    },
    "one_window_of_1": {"encoder_sliding_window": 1, "decoder_sliding_window": 1},
    "bfloat16": {"param_dtype": "bfloat16"},
}


CUT = {
    **{"encoder/embed": 42, "decoder/embed": 28, "encoder/mlp": 60, "decoder/mlp": 50},
    **{"encoder/kv_heads": 3, "encoder/heads": 3, "decoder/kv_heads": 1, "decoder/heads": 2},
}


def write(folder: Path) -> None:
    """Random models of `tiny_t5gemma_unbalanced` with each switch, and what they compute."""
    import jax
    import jax.numpy as jnp

    from openba_jax.checkpoints.checkpoint import load_tree
    from openba_jax.checkpoints.formats.huggingface import HuggingFace
    from openba_jax.checkpoints.registry import open_checkpoint
    from openba_jax.models.axes import flatten
    from openba_jax.models.registry import model_of, named_config
    from openba_jax.pruning.apply import prune_checkpoint
    from openba_jax.pruning.stages import Stage

    class Random:
        """A `Checkpoint` in memory."""

        tokenizer = plan = optimizer = None
        step, data, carried = 0, {}, {}

        def __init__(self, model, params):
            self.model, self.flat = model, flatten(params)

        def dtype(self, leaf):
            return self.flat[leaf.path].dtype

        def read(self, leaf, rows=None):
            array = np.asarray(self.flat[leaf.path])
            array = array if leaf.layer is None else array[leaf.layer]
            vocab = "vocab" if rows is not None else None
            axes = self.model.axes.paths[leaf.path]
            return array[tuple(rows if axis == vocab else slice(None) for axis in axes)]

    random = np.random.default_rng(0)
    for number, (name, fields) in enumerate(SWITCHES.items()):
        model = model_of(named_config("tiny_t5gemma_unbalanced", vocab_size=96, **fields))
        params = jax.tree.map(
            lambda leaf: jnp.asarray(random.normal(size=leaf.shape, scale=0.25), leaf.dtype),
            model.abstract_params(),
        )
        place = folder / name
        place.mkdir(parents=True)
        weights = "torch" if number % 2 else "safetensors"
        HuggingFace(weight_format=weights).write(Random(model, params), place)
        _write_logits(place, model, params, random)
        print(f"{place}: written, {weights}")
    stage = Stage("cut", drop_encoder=(1,), drop_decoder=(0,), sizes=CUT, method="magnitude")
    prune_checkpoint(folder / "as_published", folder / "cut_native", stage)
    cut, place = open_checkpoint(folder / "cut_native"), folder / "cut"
    place.mkdir()
    HuggingFace().write(cut, place)
    _write_logits(place, cut.model, load_tree(cut), random)
    print(f"{place}: written, {cut.model.axes.sizes}")


def _write_logits(place, model, params, random):
    """Inputs, one row padded, targets and logits."""
    import jax

    inputs = random.integers(3, 96, (3, 40)) * (np.arange(40) < [[40], [31], [9]])
    targets = random.integers(3, 96, (3, 30))
    targets[:, 0] = 2

    @jax.jit
    def apply(params):
        return model.module.apply({"params": params}, inputs, targets, enable_dropout=False)

    np.savez(place / "io.npz", inputs=inputs, targets=targets, logits=apply(params))


def check(folder: Path) -> None:
    """Loads every folder below with transformers, in float32."""
    import torch
    from transformers import AutoModelForSeq2SeqLM

    worst = 0.0
    for place in sorted(path.parent for path in folder.rglob("io.npz")):
        model, report = AutoModelForSeq2SeqLM.from_pretrained(
            place, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
        )
        odd = {key: list(value) for key, value in report.items() if value}
        with np.load(place / "io.npz") as io, torch.no_grad():
            inputs = torch.tensor(io["inputs"])
            found = model.eval()(
                input_ids=inputs,
                attention_mask=(inputs != 0).long(),
                decoder_input_ids=torch.tensor(io["targets"]),
            )
            difference = float(np.abs(found.logits.numpy() - io["logits"]).max())
            largest = float(np.abs(io["logits"]).max())
        worst = max(worst, difference)
        odd_note = f", and {odd}" if odd else ""
        print(f"{place.name:24s} {difference:.2e} of {largest:.3g}{odd_note}")
        if odd:
            raise SystemExit(f"{place} does not hold exactly the parameters of the model")
    if not 0 < worst < TOLERANCE:
        raise SystemExit(f"the largest difference, {worst:.2e}, is not below {TOLERANCE:g}")


if __name__ == "__main__":
    {"write": write, "check": check}[sys.argv[1]](Path(sys.argv[2]))
