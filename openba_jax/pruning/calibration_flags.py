"""Flags that say which text a model is looked at with; shared by the mains that cut and score."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from absl import flags

from openba_jax import cli
from openba_jax.errors import UserError

ELSE = "*"
"""As `stages.ELSE`, which is not imported here for the sake of a quick --help."""

if TYPE_CHECKING:
    from openba_jax.checkpoints.checkpoint import Checkpoint
    from openba_jax.pruning.calibration import Calibration

_MIXTURES = {"openba": "ul2", "t5": "span_corruption"}
"""By kind of vocabulary, what a model is most likely to have learnt; others: plain text."""


def define_flags() -> None:
    """Defines the flags."""
    flags.DEFINE_list(
        "calibration_stores", [], "Prefixes of token stores whose text the model is looked at with."
    )
    flags.DEFINE_string(
        "calibration_mixture",
        None,
        "Task or mixture that makes batches of them; by default that of the model's pretraining.",
    )
    flags.DEFINE_integer("calibration_batches", 8, "Batches to look at.", lower_bound=1)
    flags.DEFINE_integer("calibration_batch_size", 32, "Rows of a batch.", lower_bound=1)
    flags.DEFINE_list(
        "calibration_lengths", [], "INPUTS,TARGETS in tokens; by default those of the model."
    )
    flags.DEFINE_integer("calibration_seed", 0, "Seed of the batches.")
    flags.DEFINE_list("mesh_shape", ["-1", "1", "1"], "data,fsdp,model of the device mesh.")
    cli.define_memory_flag()


def methods(entries: Sequence[str]) -> str | dict[str, str]:
    """`Stage.method` of a flag: a method, and AXIS=METHOD for axes that have another.

    Raises:
      UserError: two entries speak of the same.
    """
    found: dict[str, str] = {}
    for entry in entries:
        axis, equals, method = entry.rpartition("=")
        key = axis.strip() if equals else ELSE
        if key in found:
            raise UserError(f"--method says twice how {key} is chosen; say it once.")
        found[key] = method.strip()
    return found[ELSE] if set(found) == {ELSE} else found


def calibration_of(opened: Checkpoint) -> Calibration | None:
    """The text that the flags name, for a checkpoint; None if they name none.

    Raises:
      UserError: a store does not exist or has too little text, it was made with another tokenizer
        than the checkpoint's, the mixture is unknown or for models of another kind, or lengths or
        the mesh cannot be used.
    """
    values = flags.FLAGS
    if not values.calibration_stores:
        given = [
            name
            for name in ("mixture", "batches", "batch_size", "lengths", "seed")
            if values[f"calibration_{name}"].using_default_value is False
        ]
        if given:
            raise UserError(
                f"--calibration_{given[0]} without --calibration_stores says nothing; name stores."
            )
        return None
    from openba_jax.data.loader import BatchLoader
    from openba_jax.data.vocabularies.registry import open_vocabulary
    from openba_jax.objectives.mixture import get_mixture
    from openba_jax.parallel import sharding
    from openba_jax.paths import local
    from openba_jax.pruning.calibration import Calibration

    if opened.tokenizer is None:
        raise UserError("the checkpoint has no tokenizer, which its text is made with; add it.")
    vocabulary = open_vocabulary(opened.tokenizer)
    name = values.calibration_mixture or _MIXTURES.get(vocabulary.kind, "causal_lm")
    mixture = get_mixture(name)
    opened.model.check_layout(mixture.layout)
    inputs, targets = _numbers("calibration_lengths", 2) or opened.model.config.lengths
    mesh = sharding.make_mesh(_numbers("mesh_shape", 3))
    stores = [local(store) for store in values.calibration_stores]
    rows, count = values.calibration_batch_size, values.calibration_batches
    loader = BatchLoader(
        mixture,
        stores,
        vocabulary,
        batch_size=rows,
        encoder_length=inputs,
        decoder_length=targets,
        seed=values.calibration_seed,
    )
    mine = sharding.local_rows(sharding.batch_sharding(mesh), rows)
    return Calibration(
        [loader.batch(step, mine) for step in range(count)],
        rows,
        mesh,
        {"batches": count, **loader.identity()},
    )


def _numbers(flag: str, count: int) -> Sequence[int]:
    """The whole numbers of a flag; none if it is empty.

    Raises:
      UserError: they are not so many, or no numbers.
    """
    given = flags.FLAGS[flag].value or []
    try:
        numbers = [int(number) for number in given]
    except ValueError:
        numbers = []
    if given and len(numbers) != count:
        raise UserError(f"--{flag} is {','.join(given)}; it takes {count} whole numbers.")
    return numbers
