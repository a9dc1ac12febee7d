"""Writes a corpus of true facts in two languages, instruction pairs and four-choice questions.

    python -m examples.facts --output_dir=DIR

DIR/corpus.jsonl        {"text", "lang", "source"}     documents for pretraining
DIR/instructions.jsonl  {"inputs", "targets", "lang"}  questions and answers
DIR/questions/*.json    four-choice questions in the form of the evaluation

Nothing is downloaded, and the same flags write the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence

from absl import flags

from examples.facts import writing
from openba_jax import cli

_OUTPUT_DIR = flags.DEFINE_string(
    "output_dir", None, "Folder to write; empty or missing.", required=True
)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of everything random.")
_RELATIONS = flags.DEFINE_list(
    "relations", [], "Names of the relations to tell of, e.g. capitals; all by default."
)
_FACTS = flags.DEFINE_integer(
    "facts_per_relation", writing.FACTS_PER_RELATION, "At most so many facts of each relation."
)
_DOCUMENTS = flags.DEFINE_integer("documents", writing.DOCUMENTS, "Number of documents.")
_INSTRUCTIONS = flags.DEFINE_integer(
    "instructions", writing.INSTRUCTIONS, "Number of instruction pairs."
)
_CHOICE_SHARE = flags.DEFINE_float(
    "choice_share", 0.5, "Share of the instruction pairs that list four options."
)
_HELD_OUT = flags.DEFINE_integer(
    "held_out", 0, "Question wordings that occur in the four-choice questions alone."
)


def main(argv: Sequence[str]) -> None:
    """Writes the folder and prints what is in it."""
    cli.reject_positional(argv)
    counts = writing.write(
        _OUTPUT_DIR.value,
        seed=_SEED.value,
        relations=_RELATIONS.value,
        facts_per_relation=_FACTS.value,
        documents=_DOCUMENTS.value,
        instructions=_INSTRUCTIONS.value,
        choice_share=_CHOICE_SHARE.value,
        held_out=_HELD_OUT.value,
    )
    print(f"{_OUTPUT_DIR.value}: " + ", ".join(f"{n} {name}" for name, n in counts.items()))


def run() -> None:
    """Entry point."""
    cli.run(main)


if __name__ == "__main__":
    run()
