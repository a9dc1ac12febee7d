"""Writes the small T5Gemma models of the tests, with what transformers computes for them.

python scripts/fixtures_t5gemma.py tests/families/t5gemma/data

Needs torch and transformers (5.24 wrote the present ones), which the package itself does not.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import T5GemmaConfig, T5GemmaForConditionalGeneration, T5GemmaModuleConfig

VOCABULARY = 96
START = 2
NEW_TOKENS = 12
BEAMS = 4

SHARED = {
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-6,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
}
LARGE = {
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 6,
    "query_pre_attn_scalar": 6,
    "sliding_window": 4,
}
SMALL = {
    "hidden_size": 16,
    "intermediate_size": 36,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "query_pre_attn_scalar": 5,
    "sliding_window": 3,
}
CAPPED = {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 5.0}
BARE = {"attn_logit_softcapping": None, "final_logit_softcapping": None, "attention_bias": True}

VARIANTS: dict[str, dict[str, Any]] = {
    "balanced": {
        "encoder": {**SHARED, **LARGE, **CAPPED, "num_hidden_layers": 2},
        "decoder": {**SHARED, **LARGE, **CAPPED, "num_hidden_layers": 2},
    },
    # Sizes that differ, types of layers as a cut leaves them, a head of its own, biases, no bounds.
    "unbalanced": {
        "encoder": {
            **SHARED,
            **LARGE,
            **BARE,
            "num_hidden_layers": 3,
            "layer_types": ["full_attention", "sliding_attention", "sliding_attention"],
        },
        "decoder": {
            **SHARED,
            **SMALL,
            **BARE,
            "num_hidden_layers": 3,
            "layer_types": ["full_attention", "full_attention", "sliding_attention"],
        },
        "tie_word_embeddings": False,
        "eos_token_id": [1, 7],
    },
}


def make(variant: dict[str, Any], seed: int) -> T5GemmaForConditionalGeneration:
    """A model with random parameters, norms and biases among them."""
    fields = dict(variant)
    stacks = {name: T5GemmaModuleConfig(**fields.pop(name)) for name in ("encoder", "decoder")}
    config = T5GemmaConfig(**stacks, vocab_size=VOCABULARY, **fields)
    config._attn_implementation = "eager"
    model = T5GemmaForConditionalGeneration(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            std = 0.5 if "embed_tokens" in name or "lm_head" in name else 0.3
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)
            if name == "lm_head.out_proj.weight" or "decoder.embed_tokens" in name:
                parameter[1] *= 2  # Answers shall end now and then.
    return model


def tokens(generator: np.random.Generator, lengths: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Random ids, padded with 0 on the right, and the mask of the real ones."""
    mask = (np.arange(max(lengths)) < np.array(lengths)[:, None]).astype(np.int64)
    return generator.integers(3, VOCABULARY, mask.shape) * mask, mask


def logits(
    model: T5GemmaForConditionalGeneration,
    inputs: np.ndarray,
    mask: np.ndarray,
    targets: np.ndarray,
    target_mask: np.ndarray,
) -> np.ndarray:
    """What transformers computes by teacher forcing."""
    with torch.no_grad():
        found = model(
            input_ids=torch.tensor(inputs),
            attention_mask=torch.tensor(mask),
            decoder_input_ids=torch.tensor(targets),
            decoder_attention_mask=torch.tensor(target_mask),
        )
    return found.logits.numpy()


def generate(
    model: T5GemmaForConditionalGeneration, inputs: np.ndarray, mask: np.ndarray, **options: Any
) -> Any:
    """Answers of transformers, which end with id 1 alone, as here."""
    return model.generate(
        torch.tensor(inputs),
        attention_mask=torch.tensor(mask),
        max_new_tokens=NEW_TOKENS,
        do_sample=False,
        eos_token_id=1,
        return_dict_in_generate=True,
        **options,
    )


def answers(
    model: T5GemmaForConditionalGeneration, inputs: np.ndarray, mask: np.ndarray
) -> dict[str, np.ndarray] | None:
    """Greedy and beam answers; None where they do not show enough.

    Some answers shall end and others not. Id 0, which a trained model never writes, shall not occur
    before the end: it is looked up as the start here, and as padding there.
    """
    greedy = generate(model, inputs, mask, num_beams=1).sequences.numpy()
    ends = (greedy == 1).any(axis=1)
    if ends.all() or not ends.any() or not _sound(greedy):
        return None
    found = {"greedy": _padded(greedy)}
    for name, penalty in (("beams", 0.0), ("beams_by_length", 1.0)):
        result = generate(
            model,
            inputs,
            mask,
            num_beams=BEAMS,
            num_return_sequences=BEAMS,
            length_penalty=penalty,
            output_scores=True,
        )
        sequences = result.sequences.numpy()
        if not _sound(sequences):
            return None
        found[name] = _padded(sequences).reshape(len(inputs), BEAMS, -1)
        found[f"{name}_scores"] = result.sequences_scores.numpy().reshape(len(inputs), BEAMS)
    return found if (found["beams_by_length"] == 1).any() else None


def _sound(sequences: np.ndarray) -> bool:
    """Whether id 0 stands behind an end alone."""
    ended = np.cumsum(sequences == 1, axis=1) > 0
    return not ((sequences == 0) & ~ended).any()


def _padded(sequences: np.ndarray) -> np.ndarray:
    """Answers of full length, 0 behind the end, where transformers' beams repeat the end."""
    ended = np.cumsum(sequences == 1, axis=1) - (sequences == 1) > 0
    sequences = np.where(ended, 0, sequences)
    return np.pad(sequences, [(0, 0), (0, 1 + NEW_TOKENS - sequences.shape[1])])


def main(output: Path) -> None:
    """Writes a folder for each variant: the model as transformers saves it, and `io.npz`."""
    for name, variant in VARIANTS.items():
        for seed in range(1000):
            model, random = make(variant, seed), np.random.default_rng(seed)
            inputs, mask = tokens(random, [14, 9, 5])
            found = answers(model, inputs, mask)
            if found is not None:
                break
        else:
            raise SystemExit(f"no seed makes the answers of {name} show enough")
        io = {"inputs": inputs, "mask": mask, **found}
        io["targets"], io["target_mask"] = tokens(random, [10, 4, 7])
        io["targets"][:, 0] = START
        io["logits"] = logits(*(model, inputs, mask, io["targets"], io["target_mask"]))
        left = [np.stack([np.roll(row, sum(m == 0)) for row, m in zip(x, mask, strict=True)])
                for x in (inputs, mask)]  # fmt: skip
        io["left_inputs"], io["left_mask"] = left
        io["left_logits"] = logits(model, *left, io["targets"], io["target_mask"])
        io["long_inputs"], long_mask = tokens(random, [60])
        io["long_targets"], long_target_mask = tokens(random, [40])
        io["long_targets"][:, 0] = START
        io["long_logits"] = logits(
            model, io["long_inputs"], long_mask, io["long_targets"], long_target_mask
        )
        folder = output / name
        model.save_pretrained(folder)
        small = {
            key: value.astype(np.int32 if value.dtype.kind == "i" else np.float32)
            for key, value in io.items()
        }
        np.savez_compressed(folder / "io.npz", **small)
        sizes = {file.name: file.stat().st_size for file in sorted(folder.iterdir())}
        print(name, "seed", seed, json.dumps(sizes))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
