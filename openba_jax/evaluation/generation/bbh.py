"""BIG-Bench Hard (Suzgun et al. 2022, arXiv:2210.09261), answered at once after three examples.

A folder has the files of the 27 tasks as its authors publish them, `bbh/TASK.json`, with
`{"examples": [{"input", "target"}]}`, and `cot-prompts/TASK.txt`, of which the sentence about the
task and the three examples are taken, their answers without the reasoning. Prompts, stop strings
and the comparison are those of lm-evaluation-harness (`bbh_fewshot`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from openba_jax.errors import UserError
from openba_jax.evaluation.benchmarks.base import Record, Subjects
from openba_jax.evaluation.generation import sources
from openba_jax.evaluation.generation.base import Figures, Generations, Item, share
from openba_jax.inference.stop_strings import StopStrings

TASKS = (
    *("boolean_expressions", "causal_judgement", "date_understanding", "disambiguation_qa"),
    *("dyck_languages", "formal_fallacies", "geometric_shapes", "hyperbaton"),
    *(f"logical_deduction_{n}_objects" for n in ("three", "five", "seven")),
    *("movie_recommendation", "multistep_arithmetic_two", "navigate", "object_counting"),
    *("penguins_in_a_table", "reasoning_about_colored_objects", "ruin_names"),
    *("salient_translation_error_detection", "snarks", "sports_understanding"),
    *("temporal_sequences",),
    *(f"tracking_shuffled_objects_{n}_objects" for n in ("three", "five", "seven")),
    *("web_of_lies", "word_sorting"),
)
SHOTS = 3

_ANSWER = re.compile(r"So the answer is (.*?)\.?\s*$", re.DOTALL)


class BBH(Generations):
    """Exact match of what stands before the next question."""

    name = "bbh"
    most_shots = SHOTS
    stop = StopStrings(("</s>", "Q", "\n\n"))

    def load(self, source: Path) -> Subjects:
        """Reads the tasks of a folder; see `Benchmark.load`.

        Raises:
          UserError: a file is no task of BBH, or malformed, or its examples are missing.
        """
        inner = source / "bbh" if (source / "bbh").is_dir() else source
        return {
            name: _task(path)
            for name, path in sources.subjects(sources.files(inner, (".json",))).items()
        }

    def figures(self, records: Sequence[Record]) -> Figures:
        """The share of answers that are the right one, letter by letter."""
        return {self.unit: share([r["prediction"] == r["references"][0] for r in records])}


def _task(path: Path) -> list[Item]:
    name = sources.subject(path)
    if name not in TASKS:
        raise UserError(f"{path} is no task of BBH; the tasks are {', '.join(TASKS)}.")
    content = sources.read_json(path)
    examples = content.get("examples") if isinstance(content, dict) else None
    if not isinstance(examples, list) or not examples:
        raise UserError(f"{path} holds no question; a list 'examples' is expected.")
    intro, demos = _shown(path, name)
    items = []
    for number, example in enumerate(examples, start=1):
        place = f"{path} question {number}"
        text, target = (_field(example, field, place) for field in ("input", "target"))
        items.append(Item(_asked(text), (target.strip(),), place, name, intro, demos))
    return items


def _shown(path: Path, name: str) -> tuple[str, tuple[str, ...]]:
    """What stands in front of every question: the sentence about the task, and examples."""
    for folder in (path.parent, path.parent.parent):
        file = folder / "cot-prompts" / f"{name}.txt"
        if file.is_file():
            break
    else:
        raise UserError(
            f"the examples for {path} are missing; put cot-prompts/{name}.txt, of the same "
            "repository, beside its folder."
        )
    text = file.read_text(encoding="utf-8-sig").replace("\r\n", "\n")
    # The first lines ask crawlers to leave the file out of corpora.
    text = text.rpartition("-----\n")[2]
    intro, *blocks = re.split(r"\n+(?=Q: )", text.strip())
    demos = []
    for block in blocks:
        question, _, reasoning = block.removeprefix("Q: ").partition("\nA:")
        found = _ANSWER.search(reasoning)
        if found is None:
            raise UserError(f"{file}: an example has no 'So the answer is'; mend it.")
        demos.append(f"{_asked(question)} {found[1].strip()}\n\n")
    if len(demos) != SHOTS:
        raise UserError(f"{file} has {len(demos)} examples; {SHOTS} are expected.")
    return intro.strip() + "\n\n", tuple(demos)


def _asked(question: str) -> str:
    return f"Q: {question}\nA:"


def _field(example: Any, name: str, place: str) -> str:
    value = example.get(name) if isinstance(example, dict) else None
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{place}: {name!r} is {value!r:.60}; it must be text.")
    return value


BENCHMARK = BBH()
