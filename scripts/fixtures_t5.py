"""Makes tests/families/t5/data: tiny models as transformers writes them, and what they compute.

Run with torch and transformers: python scripts/fixtures_t5.py tests/families/t5/data
"""

import sys
from pathlib import Path

import numpy as np
import torch
from transformers import (
    MT5Config,
    MT5ForConditionalGeneration,
    T5Config,
    T5ForConditionalGeneration,
)

SIZES = {
    "vocab_size": 96,
    "d_model": 24,
    "d_kv": 6,
    "d_ff": 32,
    "num_heads": 4,
    "num_layers": 2,
    "num_decoder_layers": 2,
    "decoder_start_token_id": 0,
    "dropout_rate": 0.0,
}
VARIANTS = {
    "t5": {"feed_forward_proj": "relu"},
    "t5_1_1": {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    "mt5": {"feed_forward_proj": "gated-gelu", "num_layers": 1},
    "ul2": {"feed_forward_proj": "gated-silu", "tie_word_embeddings": False, "d_kv": 8, "d_ff": 20},
    "tied_unscaled": {
        "feed_forward_proj": "gelu_new",
        "tie_word_embeddings": False,
        "relative_attention_num_buckets": 12,
        "relative_attention_max_distance": 30,
        "num_decoder_layers": 3,
    },
}
OWN_HEAD = ("t5_1_1", "mt5", "ul2")


def model_of(name, seed):
    """A random model whose norms, biases and head are random, too."""
    torch.manual_seed(seed)
    kind = (MT5Config, MT5ForConditionalGeneration) if name == "mt5" else (
        T5Config, T5ForConditionalGeneration,
    )  # fmt: skip
    model = kind[1](kind[0](**{**SIZES, **VARIANTS[name]})).eval()
    if name in OWN_HEAD:  # transformers 5 ties them whatever the configuration says.
        model.lm_head.weight = torch.nn.Parameter(torch.empty_like(model.lm_head.weight))
    with torch.no_grad():
        for path, parameter in model.named_parameters():
            if "norm" in path:
                parameter.copy_(1 + 0.2 * torch.randn_like(parameter))
            else:
                std = 1.0 if "shared" in path or "relative" in path else 0.3
                parameter.copy_(std * torch.randn_like(parameter))
        model.lm_head.weight[1] *= 4  # So that some answers end.
    return model


def padded(generator, lengths, left=False):
    rows = np.zeros((len(lengths), max(lengths)), np.int32)
    for row, length in zip(rows, lengths, strict=True):
        place = slice(-length, None) if left else slice(length)
        row[place] = generator.integers(2, SIZES["vocab_size"], length)
    return rows


def logits(model, inputs, targets):
    inputs, targets = torch.tensor(inputs).long(), torch.tensor(targets).long()
    with torch.no_grad():
        return model(
            input_ids=inputs, attention_mask=(inputs > 0).long(), decoder_input_ids=targets
        ).logits.numpy()


def generated(model, inputs, **options):
    """Sequences with padding behind eos, where beam search of transformers 5.24 repeats eos."""
    inputs = torch.tensor(inputs).long()
    with torch.no_grad():
        found = model.generate(
            input_ids=inputs,
            attention_mask=(inputs > 0).long(),
            max_new_tokens=12,
            eos_token_id=1,
            pad_token_id=0,
            do_sample=False,
            # The cache of transformers 5.24 has as many layers as the encoder.
            use_cache=False,
            **options,
        ).numpy()
    ended = np.cumsum(found == 1, axis=1)
    return np.where((ended > 1) | ((ended == 1) & (found != 1)), 0, found)


def main():
    for seed, name in enumerate(VARIANTS):
        folder = Path(sys.argv[1]) / name
        model = model_of(name, seed)
        model.save_pretrained(folder)
        rng = np.random.default_rng(seed)
        io = {"inputs": padded(rng, (9, 5, 12)), "left_inputs": padded(rng, (6, 9), left=True)}
        io["targets"] = padded(rng, (7, 10, 4))
        io["targets"][:, 0] = 0
        io["logits"] = logits(model, io["inputs"], io["targets"])
        io["left_logits"] = logits(model, io["left_inputs"], io["targets"][:2])
        io["long_inputs"], io["long_targets"] = padded(rng, (300,)), padded(rng, (200,))
        io["long_targets"][:, 0] = 0
        io["long_logits"] = logits(model, io["long_inputs"], io["long_targets"])[:, -4:]
        io["greedy"] = generated(model, io["inputs"])
        for penalty in (0.0, 1.0):
            found = generated(
                model, io["inputs"], num_beams=4, num_return_sequences=4, length_penalty=penalty
            )
            io[f"beams_{penalty:g}"] = found.reshape(len(io["inputs"]), 4, -1)
        np.savez_compressed(folder / "io.npz", **io)
        ends = [int(np.sum(row == 1)) for row in io["greedy"]]
        print(name, f"{sum(f.stat().st_size for f in folder.iterdir()):,} bytes, ends {ends}")


if __name__ == "__main__":
    main()
