r"""Makes instructions of sentences with named entities, for `openba-prepare tokens`.

openba-prepare-ner --input=data/pile-ner.json --output=data/pile_ner.jsonl
openba-prepare-ner --input=data/ner --split=train --output=data/ner_train.jsonl \
  --template='[INST] {} [/INST]'

The input is GNER's JSON, or a folder of data sets in columns (NAME/train.txt, NAME/label.txt). The
output holds JSON lines with `inputs` and `targets`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from absl import flags

from openba_jax import cli
from openba_jax.data.ner.sentences import read
from openba_jax.errors import UserError
from openba_jax.files import write_atomically
from openba_jax.paths import check_output_file, local, reject_overlap

PLACE = "{}"


def define_flags() -> None:
    """Defines the flags of this main."""
    flags.DEFINE_string("input", None, "A JSON file of GNER, or a folder of data sets.")
    flags.DEFINE_string("output", None, "The .jsonl file to write.")
    flags.DEFINE_string("split", "train", "Columns: the files SPLIT.txt are read.")
    flags.DEFINE_string(
        "template",
        PLACE,
        "What stands around prompts, {} being the prompt; LLaMA: '[INST] {} [/INST]'.",
    )
    flags.DEFINE_integer(
        "first", None, "Of each data set, only so many sentences from its beginning.", lower_bound=1
    )
    flags.DEFINE_bool("name_dataset", False, "Columns: prompts name the data set.")


def convert(
    source: str,
    output: str,
    split: str = "train",
    template: str = PLACE,
    first: int | None = None,
    name_dataset: bool = False,
) -> dict[str, int]:
    """Writes a line for each sentence.

    Args:
      source: see `sentences.read`.
      output: the file to write.
      split: of columns.
      template: what stands around prompts, with one `{}`.
      first: sentences of each data set; None: all.
      name_dataset: prompts made of columns name the data set.

    Returns:
      Sentences of each data set.

    Raises:
      UserError: sentences cannot be read, the template has not one place for the prompt, or the
        output cannot be written or lies in the input.
    """
    if template.count(PLACE) != 1:
        raise UserError(f"--template is {template!r}; it has one {PLACE}, where the prompt goes.")
    path, target = local(source), check_output_file(output)
    reject_overlap(path, target, "input")
    found = {name: each[:first] for name, each in read(path, split, name_dataset).items()}
    lines = [
        json.dumps(
            {"inputs": template.replace(PLACE, each.prompt), "targets": each.answer},
            ensure_ascii=False,
        )
        for sentences in found.values()
        for each in sentences
    ]
    write_atomically(target, "\n".join(lines) + "\n")
    return {name: len(sentences) for name, sentences in found.items()}


def main(argv: Sequence[str]) -> None:
    """Converts as the flags say."""
    cli.reject_positional(argv)
    values = flags.FLAGS
    if not values.input or not values.output:
        raise UserError("say what to read and where to write: give --input and --output.")
    counts = convert(
        values.input,
        values.output,
        values.split,
        values.template,
        values.first,
        values.name_dataset,
    )
    for name, count in counts.items():
        sys.stdout.write(f"{name}: {count} sentences\n")


def run() -> None:
    """Entry point."""
    define_flags()
    cli.run(main)


if __name__ == "__main__":
    run()
