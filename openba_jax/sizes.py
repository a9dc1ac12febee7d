r"""Prints the named model sizes: layers, widths, parameters, bytes, FLOPs.

python -m openba_jax.sizes
python -m openba_jax.sizes --models=tiny,small --encoder_length=64 --decoder_length=48
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from absl import flags

from openba_jax import cli

# Labels of the original's stage table, and where they are not the rounded count (reference §1.8).
LABELS = {
    "openba_15b": "15B; 14.57B rounded up",
    "stage1_12b": "12.3B",
    "stage2_11b": "11.0B",
    "stage3_10b": "9.9B; the paper's label, no vocabulary gives it",
    "stage4_3_8b": "3.8B",
    "stage5_3_8b": "3.8B",
    "openba_v2_3_4b": "3.4B; 3.476B truncated",
    "openba_v2_3_4b (100k)": "3.4B",
}


def rows(models: Sequence[str], encoder_length: int, decoder_length: int) -> list[list[str]]:
    """One row per model, as text; the vocabulary of 100k is a second reading of the last size."""
    from openba_jax.models.counting import (
        decode_flops_per_token,
        parameter_bytes,
        parameter_count,
        train_flops_per_example,
    )
    from openba_jax.models.openba.config import named_config, padded_vocab_size

    configs = []
    for name in models:
        configs.append((name, named_config(name)))
        if name == "openba_v2_3_4b":
            vocab_size = padded_vocab_size(100_000 + 103)
            configs.append((f"{name} (100k)", named_config(name, vocab_size=vocab_size)))
    table = []
    for name, config in configs:
        tied = config.replace(tie_embeddings=True)
        untied = config.replace(tie_embeddings=False)
        table.append(
            [
                name,
                f"{config.encoder_layers}+{config.decoder_layers}",
                f"{config.embed_dim:,}",
                f"{config.num_heads}x{config.head_dim}",
                f"{config.mlp_dim:,}",
                f"{config.vocab_size:,}",
                f"{parameter_count(tied):,}",
                f"{parameter_count(untied):,}",
                f"{parameter_bytes(tied, 'bfloat16') / 2**30:.4g}",
                f"{decode_flops_per_token(config, encoder_length, decoder_length // 2) / 1e9:.4g}",
                f"{train_flops_per_example(config, encoder_length, decoder_length) / 1e12:.4g}",
                LABELS.get(name, "-"),
            ]
        )
    return table


HEADER = [
    "model",
    "layers",
    "embed",
    "heads",
    "mlp",
    "vocab",
    "parameters (tied)",
    "parameters (untied)",
    "bf16 GiB",
    "GFLOP/token, decoding",
    "TFLOP/example, training",
    "label in the paper",
]


def main(argv: Sequence[str]) -> None:
    """Prints the table."""
    cli.reject_positional(argv)
    from openba_jax.models.openba.config import NAMED_CONFIGS

    values = flags.FLAGS
    body = rows(values.models or list(NAMED_CONFIGS), values.encoder_length, values.decoder_length)
    widths = [max(len(row[i]) for row in [HEADER, *body]) for i in range(len(HEADER))]
    for row in [HEADER, *body]:
        sys.stdout.write("  ".join(c.rjust(w) for c, w in zip(row, widths, strict=True)) + "\n")
    sys.stdout.write(
        f"FLOPs at {values.encoder_length} encoder and {values.decoder_length} decoder tokens, "
        "without rematerialisation.\n"
    )


def define_flags() -> None:
    """Defines the flags of this main."""
    flags.DEFINE_list("models", [], "Named sizes to print; all by default.")
    flags.DEFINE_integer("encoder_length", 570, "Encoder tokens of an example.", lower_bound=1)
    flags.DEFINE_integer("decoder_length", 380, "Decoder tokens of an example.", lower_bound=1)


def run() -> None:
    """Entry point."""
    define_flags()
    cli.run(main)


if __name__ == "__main__":
    run()
