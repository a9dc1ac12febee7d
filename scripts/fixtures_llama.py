"""Makes tests/families/llama/data: tiny models of transformers, and what they answer.

Run where torch and transformers are installed (5.24 made what is there):

    python scripts/fixtures_llama.py tests/families/llama/data
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)

COMMON = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
VARIANTS = {
    "llama2": LlamaConfig(**{**COMMON, "num_key_value_heads": 4}),
    "llama3": LlamaConfig(
        **COMMON,
        attention_bias=True,
        mlp_bias=True,
        tie_word_embeddings=True,
        head_dim=16,
        rope_parameters=LLAMA3,
    ),
    "linear": LlamaConfig(
        **{**COMMON, "num_key_value_heads": 1},
        rope_parameters={"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0},
    ),
    "mistral": MistralConfig(**COMMON, sliding_window=8, head_dim=12),
    "qwen2": Qwen2Config(
        **COMMON,
        tie_word_embeddings=True,
        use_sliding_window=True,
        sliding_window=5,
        max_window_layers=1,
    ),
    "qwen3": Qwen3Config(**COMMON, head_dim=8),
}


def main(root: Path) -> None:
    """Writes a folder for each variant."""
    for number, (name, config) in enumerate(VARIANTS.items()):
        torch.manual_seed(number)
        config._attn_implementation = "eager"
        model = AutoModelForCausalLM.from_config(config).eval().float()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim == 1:  # Scales of 1 and biases of 0 would hide mistakes.
                    parameter.add_(0.3 * torch.randn_like(parameter))
        folder = root / name
        model.save_pretrained(folder)
        (folder / "generation_config.json").unlink(missing_ok=True)
        generator = torch.Generator().manual_seed(number)
        inputs = torch.randint(3, 96, (3, 40), generator=generator)
        lengths = torch.tensor([40, 23, 1])
        mask = (torch.arange(40) < lengths[:, None]).long()
        inputs = inputs * mask
        with torch.no_grad():
            logits = model(input_ids=inputs, attention_mask=mask).logits
            # transformers pads prompts on the left: ask one by one.
            answers = {"greedy": [], "beams": []}
            for row, length in zip(inputs, lengths, strict=True):
                prompt = row[None, :length]
                for kind, options in (
                    ("greedy", {"num_beams": 1}),
                    ("beams", {"num_beams": 4, "num_return_sequences": 4, "length_penalty": 1.0}),
                ):
                    found = model.generate(
                        prompt,
                        attention_mask=torch.ones_like(prompt),
                        max_new_tokens=10,
                        do_sample=False,
                        eos_token_id=2,
                        pad_token_id=0,
                        **options,
                    )[:, length:]
                    padded = torch.zeros(found.shape[0], 10, dtype=torch.long)
                    padded[:, : found.shape[1]] = found
                    answers[kind].append(padded.numpy())
        np.savez_compressed(
            folder / "io.npz",
            inputs=inputs.numpy().astype(np.int32),
            lengths=lengths.numpy().astype(np.int32),
            logits=logits.numpy(),
            greedy=np.stack(answers["greedy"])[:, 0].astype(np.int32),
            beams=np.stack(answers["beams"]).astype(np.int32),
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
