"""What scoring a large model by gradients costs, beside a training step without an optimizer.

python scripts/benchmarks/scoring_memory.py [--model=stage5_3_8b] [--chip=h100] [--chips=8]

Both are compiled by the chip's own compiler, of the extra `aot`, for one batch of the same rows:
the pass of `openba-score --method=taylor`, all axes at once, and the forward and backward pass.
"""

from __future__ import annotations

import dataclasses

import optax
from absl import app, flags

from openba_jax.fit.chips import find_slice
from openba_jax.fit.compilers import target
from openba_jax.fit.environment import prepare
from openba_jax.fit.fitting import Fit, fit
from openba_jax.fit.steps import Workload
from openba_jax.models.registry import model_of, named_config
from openba_jax.training.optimizer import Optimizer

_MODEL = flags.DEFINE_string("model", "stage5_3_8b", "Named configuration.")
_CHIP = flags.DEFINE_string("chip", "h100", "Chip to compile for.")
_CHIPS = flags.DEFINE_integer("chips", 8, "How many.", lower_bound=1)
_BATCH = flags.DEFINE_integer("batch", 8, "Rows of a batch.", lower_bound=1)
_REMAT = flags.DEFINE_string("remat", "minimal", "Rematerialisation policy.")
_DTYPE = flags.DEFINE_string("dtype", "bfloat16", "Type of activations.")
_ENCODER = flags.DEFINE_integer("encoder_length", 576, "Positions of inputs.", lower_bound=1)
_DECODER = flags.DEFINE_integer("decoder_length", 384, "Positions of targets.", lower_bound=1)


def main(argv: list[str]) -> None:
    """Prints both, and their ratios."""
    del argv
    prepare()
    there = target(find_slice(_CHIP.value, count=_CHIPS.value))
    model = model_of(named_config(_MODEL.value)).replace(
        remat_policy=_REMAT.value, dtype=_DTYPE.value, dropout_rate=0.0, attention_dropout_rate=0.0
    )
    # Plain descent keeps no state: what is left of the step is the two passes.
    descent = Optimizer(optax.sgd(1e-3), lambda step: 1e-3)
    lengths = (_ENCODER.value, _DECODER.value)
    work = Workload(model, descent, lengths, _BATCH.value)
    print(f"{_MODEL.value}, {_BATCH.value} rows of {lengths}, {_REMAT.value}: {there.compiler}")
    print("| | TFLOP of a device | GiB of parameters | GiB of temporaries | GiB in all |")
    print("|---|---:|---:|---:|---:|")
    found = {step: fit(work, step, (1, _CHIPS.value, 1), there) for step in ("train", "score")}
    for step, one in found.items():
        print(line({"train": "forward and backward", "score": "scores of all axes"}[step], one))
    train, score = found["train"], found["score"]
    if train.costs and score.costs:
        print(f"FLOP: {score.costs.flops / train.costs.flops:.3f} times")
    if train.roofline and score.roofline:
        print(f"roofline: {score.roofline.exposed / train.roofline.exposed:.3f} times the seconds")
    print(f"memory: {score.memory.total / train.memory.total:.3f} times")


def line(name: str, found: Fit) -> str:
    """A row of the table."""
    memory = dataclasses.asdict(found.memory)
    flops = f"{found.costs.flops / 1e12:.2f}" if found.costs else "-"
    gib = (memory["parameters"], memory["temporaries"], found.memory.total)
    return f"| {name} | {flops} | " + " | ".join(f"{each / 2**30:.2f}" for each in gib) + " |"


if __name__ == "__main__":
    app.run(main)
