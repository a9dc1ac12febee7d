"""What a staged run is told about its data and its trainings."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

from openba_jax.cli import gin_values
from openba_jax.errors import UserError
from openba_jax.paths import address_or_local, local
from openba_jax.training import layer_optimizers, optimizer

OPTIMIZERS: dict[str, Callable[..., optimizer.Optimizer | optimizer.OptimizerOf]] = {
    "adamw": optimizer.adamw,
    "muon": layer_optimizers.muon,
}
"""By name: functions of a schedule and `weight_decay`, everything else as they have it."""


@dataclasses.dataclass(frozen=True)
class Phase:
    """How one kind of training is done.

    Attributes:
      mixture: what to train on.
      peak: learning rate that the cosine falls from.
      minimum: learning rate that it ends at.
      warmup_share: share of the phase's steps that warm up; of recovery, after every cut anew.
      weight_decay: multiplies the parameter; scaled by the learning rate, too.
      tokens: positions to train on, padding included; of recovery, the stages bring them.
      optimizer: `adamw` or `muon`, see `training.optimizer` and `training.layer_optimizers`.
    """

    mixture: str
    peak: float
    minimum: float
    warmup_share: float = 0.05
    weight_decay: float = 0.1
    tokens: int = 0
    optimizer: str = "adamw"

    def __post_init__(self) -> None:
        """Checks each value by itself.

        Raises:
          UserError: no phase can train so.
        """
        optimizer.check_rates(self.peak, self.minimum)
        if not 0 <= self.warmup_share <= 1:
            raise UserError(
                f"a Phase has the warmup_share {self.warmup_share}; it must be from 0 to 1."
            )
        if not (math.isfinite(self.weight_decay) and self.weight_decay >= 0):
            raise UserError(
                f"a Phase has the weight_decay {self.weight_decay}; it must be a number from 0 on."
            )
        if self.tokens < 0:
            raise UserError(f"a Phase has {self.tokens} tokens; give 0 or more.")
        if self.optimizer not in OPTIMIZERS:
            raise UserError(
                f"a Phase has the optimizer {self.optimizer!r}; known are "
                f"{' and '.join(OPTIMIZERS)}."
            )


_COUNTS = (
    *("group_size", "encoder_length", "decoder_length"),
    *("batch_size", "held_out", "eval_batches"),
)
"""Fields of `Data` that count something there must be of."""


@dataclasses.dataclass(frozen=True)
class Data:
    """Where text comes from and how it is cut.

    Attributes:
      corpus: text files, JSON lines with `text` or plain; a single one may stand by itself.
      instructions: JSON lines with `inputs` and `targets`; likewise. None: nothing is tuned.
      questions: folder of question files; empty: nothing is scored.
      vocabulary_size: pieces of the tokenizer that is trained; an ancestor brings its own.
      group_size: tokens of a group of text.
      encoder_length: positions of the encoder.
      decoder_length: positions of the decoder.
      batch_size: rows of a batch.
      held_out: groups and instructions kept for evaluation.
      eval_batches: batches that every loss of the table is measured on.
      stores: prefixes of token stores that were made with the ancestor's tokenizer, instead of a
        corpus; of text, of instructions, or of both.
    """

    corpus: str | Sequence[str]
    instructions: str | Sequence[str]
    questions: str
    vocabulary_size: int
    group_size: int
    encoder_length: int
    decoder_length: int
    batch_size: int
    held_out: int
    eval_batches: int
    stores: str | Sequence[str] = ()

    def __post_init__(self) -> None:
        """Makes lists of single files, expands `~`, and checks the numbers.

        Raises:
          UserError: a path cannot be one, `questions` is an address, text is given twice, or a
            number is below 1.
        """
        for name in _COUNTS:
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        for name in ("corpus", "instructions"):
            files = gin_values.several(getattr(self, name))
            object.__setattr__(self, name, [address_or_local(file) for file in files])
        stores = [str(local(store)) for store in gin_values.several(self.stores)]
        object.__setattr__(self, "stores", stores)
        if stores and self.corpus:
            raise UserError(
                f"text is given twice, as the corpus {self.corpus[0]} and as the store "
                f"{stores[0]}; give one of the two."
            )
        if self.questions:
            object.__setattr__(self, "questions", str(local(self.questions)))

    def steps(self, tokens: int) -> int:
        """Training steps that show at least so many positions."""
        return -(-tokens // (self.batch_size * (self.encoder_length + self.decoder_length)))

    def tokens(self, steps: int) -> int:
        """Positions that so many steps show."""
        return steps * self.batch_size * (self.encoder_length + self.decoder_length)
