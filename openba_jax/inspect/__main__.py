r"""Says what a folder or a file is, and what can be done with it next.

openba-inspect runs/model
openba-inspect OpenBA-LM data/train --json

It knows model folders, checkpoints of Hugging Face, Megatron, T5X and GGUF, token stores (by their
prefix), tokenizers, scores, a teacher's answers, and the folders of pipelines, studies, searches
and sweeps. It reads headers and no tensor, so it is quick with a model of any size.
"""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from absl import flags

from openba_jax import cli
from openba_jax.errors import UserError
from openba_jax.paths import local

_WIDEST = 98  # Columns; what is nested stands two further right.


def main(argv: Sequence[str]) -> None:
    """Describes what the words name."""
    if len(argv) < 2:
        raise UserError("name a folder or a file: openba-inspect FOLDER; --help shows examples.")
    from openba_jax.inspect.description import describe
    from openba_jax.inspect.next_steps import next_steps

    found = []
    for word in argv[1:]:
        about = describe(local(word))
        steps = next_steps(about)
        found.append({**about, "next": [step._asdict() for step in steps]})
        if not flags.FLAGS.json:
            sys.stdout.write(page(about))
            sys.stdout.writelines(
                f"\n{step.purpose}:\n  {step.command}\n" if step.command else f"\n{step.purpose}.\n"
                for step in steps
            )
            sys.stdout.write("\n" if word != argv[-1] else "")
    if flags.FLAGS.json:
        shown = found[0] if len(found) == 1 else found
        sys.stdout.write(json.dumps(shown, indent=2, ensure_ascii=False) + "\n")


def page(about: Mapping[str, Any]) -> str:
    """A description as lines of names and values."""
    rows = {k: v for k, v in about.items() if k not in ("path", "kind", "format")}
    lines = [f"{about['path']}: {about['format']}", *_lines(rows)]
    return "".join(f"{line}\n" for line in lines)


def _lines(rows: Mapping[str, Any]) -> Iterator[str]:
    """Names in one column, values in the other; what belongs to a name stands below it."""
    width = max(map(len, rows), default=0)
    for name, value in rows.items():
        head = f"  {name:{width}}  "
        if isinstance(value, Mapping) and any(
            isinstance(v, Mapping | list) for v in value.values()
        ):
            yield f"  {name}:"
            yield from (f"  {line}" for line in _lines(value))
            continue
        records = isinstance(value, list) and value and isinstance(value[0], Mapping)
        for text in map(_text, value if records else [value]):
            yield from textwrap.wrap(
                text, _WIDEST, initial_indent=head, subsequent_indent=" " * len(head)
            )
            head = " " * len(head)


def _text(value: Any, inside: bool = False) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "none"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_text(item, True)}" for name, item in value.items()) or "none"
    if isinstance(value, list):
        text = ", ".join(_text(item, True) for item in value) or "none"
        return f"[{text}]" if inside else text
    return f"{value:,}" if isinstance(value, int) else str(value)


def define_flags() -> None:
    """Defines the flags of this main."""
    flags.DEFINE_bool("json", False, "Print JSON.")


def run() -> None:
    """Entry point."""
    define_flags()
    cli.run(main)


if __name__ == "__main__":
    run()
