"""GSM8K (Cobbe et al. 2021, arXiv:2110.14168): sums in words, of which the last number counts.

A folder has `test` and `train` as JSON lines or parquet, with `question` and `answer`, whose number
stands behind `####`. The first five of `train` are shown as examples. Stop strings and extraction
are those of lm-evaluation-harness.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from openba_jax.errors import UserError
from openba_jax.evaluation.benchmarks.base import Record, Subjects
from openba_jax.evaluation.generation import sources
from openba_jax.evaluation.generation.base import Figures, Generations, Item, share
from openba_jax.inference.stop_strings import StopStrings

SHOTS = 5
_STRICT = re.compile(r"#### (-?[0-9.,]+)")
_NUMBER = re.compile(r"-?[$0-9.,]{2,}|-?[0-9]+")


class GSM8K(Generations):
    """The number behind `####`, or the last one."""

    name = "gsm8k"
    most_shots = SHOTS
    stop = StopStrings(("Question:", "</s>", "<|im_end|>"))

    def load(self, source: Path) -> Subjects:
        """Reads `test` and the examples of `train`; see `Benchmark.load`.

        Raises:
          UserError: a file is missing or malformed, or an answer has no number behind `####`.
        """
        inner = source / "main" if (source / "main").is_dir() else source
        found = sources.files(inner, sources.TABLES)
        train, test = (
            [path for path in found if path.name.startswith(part)] for part in ("train", "test")
        )
        if not train or not test:
            raise UserError(
                f"{inner} lacks train or test; both are needed, for examples and questions."
            )
        shown = [pair for path in train for pair in _pairs(path)][:SHOTS]
        demos = tuple(f"{_asked(question)} {answer}\n\n" for _, question, answer in shown)
        return {
            self.name: [
                Item(_asked(question), (answer,), place, self.name, "", demos)
                for path in test
                for place, question, answer in _pairs(path)
            ]
        }

    def figures(self, records: Sequence[Record]) -> Figures:
        """`exact_match`, and the harness's two ways: behind `####` alone, the last number alone."""
        gold = [_bare(strict(record["references"][0])) for record in records]
        answers = [record["prediction"] for record in records]
        ways = {
            self.unit: [strict(text) or flexible(text) for text in answers],
            "strict_match": [strict(text) for text in answers],
            "flexible_extract": [flexible(text) for text in answers],
        }
        return {
            name: share([_bare(a) == b for a, b in zip(found, gold, strict=True)])
            for name, found in ways.items()
        }


def strict(text: str) -> str:
    """The first number behind `####`; "" if there is none."""
    found = _STRICT.search(text)
    return found[1] if found else ""


def flexible(text: str) -> str:
    """The last number; "" if there is none."""
    found = _NUMBER.findall(text)
    return found[-1] if found else ""


def _bare(number: str) -> str:
    """A number without what may be written in and behind it."""
    return re.sub(r"\.$", "", number.replace(",", "").replace("$", ""))


def _pairs(path: Path) -> list[tuple[str, str, str]]:
    found = []
    for place, record in sources.records(path):
        question, answer = (sources.filled(record, name, place) for name in ("question", "answer"))
        if not strict(answer):
            raise UserError(f"{place}: the answer has no number behind '####'; mend it.")
        found.append((place, question, answer))
    return found


def _asked(question: str) -> str:
    return f"Question: {question}\nAnswer:"


BENCHMARK = GSM8K()
