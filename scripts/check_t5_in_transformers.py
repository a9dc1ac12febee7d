"""Compares a T5 folder that was written here with what transformers makes of it.

Run with torch and transformers: python scripts/check_t5_in_transformers.py FOLDER ORIGINAL
prints the largest difference of the logits of the two folders, both loaded by transformers.
"""

import sys

import torch
from transformers import AutoModelForSeq2SeqLM


def logits(folder: str) -> torch.Tensor:
    model, report = AutoModelForSeq2SeqLM.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True
    )
    problems = {name: keys for name, keys in report.items() if keys}
    print(f"{folder}: {type(model).__name__}, {problems or 'every tensor has its place'}")
    generator = torch.Generator().manual_seed(0)
    size = (3, 17)
    inputs = torch.randint(2, model.config.vocab_size, size, generator=generator)
    inputs[1, 9:] = 0
    targets = torch.randint(2, model.config.vocab_size, (3, 11), generator=generator)
    with torch.no_grad():
        return model.eval()(
            input_ids=inputs, attention_mask=(inputs > 0).long(), decoder_input_ids=targets
        ).logits


def main() -> None:
    found, expected = map(logits, sys.argv[1:3])
    print(f"largest difference of a logit: {(found - expected).abs().max().item():.3g}")


if __name__ == "__main__":
    main()
