"""A user's mistake, told by T5X's binaries in one sentence, as the native runner's mains do."""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from absl import flags

import gin
from openba_jax.errors import UserError

_ASKED = "benchmarks are asked while openba-train trains"
_MEASURED = "benchmarks are openba-eval's"

INSTEAD = {
    "MESH_SHAPE": "T5X's mesh has two axes, give NUM_PARTITIONS",
    "OUTPUT_FILE": "T5X writes several files, give OUTPUT_DIR",
    "QUESTIONS": "question files are openba-eval's",
    **dict.fromkeys(
        ("BENCHMARKS", "COMPARE", "EXPORT", "PRESET", "RESULTS_DIR", "SHOTS"), _MEASURED
    ),
    **dict.fromkeys(("EVAL_BENCHMARKS", "EVAL_QUESTIONS", "EVAL_QUESTIONS_BATCH"), _ASKED),
    **dict.fromkeys(("EVAL_QUESTIONS_LENGTHS", "EVAL_QUESTIONS_PERIOD"), _ASKED),
    "BEAMS": "beams are openba-infer's",
    "EARLY_STOPPING": "beams are openba-infer's",
    "TEMPLATE": "T5X asks prompts as they are, write the template into them",
    "PARSE_SPECIAL": "it is about prompts and question files, give it to infer or openba-eval",
    "EVAL_STORES": "give gin/runs/t5x/native_batches.gin, too",
    "TARGET_LOSSES": "give gin/runs/t5x/native_batches.gin, too",
    "RATE_FLOOR": "give gin/runs/t5x/native_batches.gin, too",
    "PARAM_DTYPE": "T5X trains parameters in the type that MODEL_CONFIG has",
    "NOT_FINITE": "T5X stops by its own trainer.TerminateOnNanAction, as one of train.actions",
    "MAX_SKIPPED": "T5X skips no step, openba-train does",
    "ALLOW_CHANGES": "T5X does not compare a run with what it was, openba-train does",
    "FALL_BACK": "T5X takes the newest checkpoint; delete it to go on from the one before",
}
"""Macros that gin/runs/native has and its namesakes here have not."""


def tell_in_one_sentence() -> None:
    """From now on the interpreter ends without a stack trace if the user can mend the cause."""
    show_trace = sys.excepthook

    def show(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        sentence = _sentence(error)
        if sentence is None:
            show_trace(kind, error, trace)
        else:
            sys.stderr.write(f"error: {sentence}\n")

    sys.excepthook = show


def _sentence(error: BaseException) -> str | None:
    """What to tell; gin appends to a message where in the configuration the call stands."""
    first = str(error).partition("\n")[0]
    if isinstance(error, UserError):
        return first
    if found := re.match(r"(\w+)/macro\.value set to `%gin.REQUIRED` but not", first):
        return f"gin: {found[1]} is missing; give --gin.{found[1]}=VALUE."
    if first.startswith("named_config() missing"):
        return "gin: no size of the model is given; give a file of gin/models, too."
    return None


@gin.config.register_finalize_hook
def refuse_unread_macros(config: Mapping[tuple[str, str], Mapping[str, Any]]) -> None:
    """gin takes a misspelt macro of the command line for a new one, which nobody reads.

    Args:
      config: (scope, selector) -> arguments, as gin keeps it.

    Raises:
      UserError: a binding of the command line sets a macro that nothing reads.
    """
    references = gin.config.iterate_references(config, gin.get_configurable(gin.config.macro))
    read = {"/".join(reference.scopes) for reference in references}
    for binding in _command_line():
        name = binding.partition("=")[0].strip()
        if not name.isidentifier() or name in read:
            continue
        close = difflib.get_close_matches(name, read, 1)
        hint = INSTEAD.get(name) or (f"did you mean {close[0]}?" if close else "leave it out.")
        raise UserError(f"no gin file reads the macro {name}; {hint}")


def _command_line() -> list[str]:
    """The bindings of T5X's flags; none where no binary of T5X runs."""
    parsed = "gin_bindings" in flags.FLAGS and flags.FLAGS.is_parsed()
    return list(flags.FLAGS["gin_bindings"].value or []) if parsed else []
