"""Summaries, measured by ROUGE (rouge_score).

A folder has files of JSON lines or parquet, each a subject, with a text (`document`, `article`,
`text` or `dialogue`) and its summary (`summary` or `highlights`). Of a text that is too long the
end is left out.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from openba_jax.data.text.documents import Record as Row
from openba_jax.errors import UserError
from openba_jax.evaluation.benchmarks.base import Record, Subjects
from openba_jax.evaluation.generation import sources
from openba_jax.evaluation.generation.base import Figures, Generations, Item
from openba_jax.inference.stop_strings import StopStrings

TEXTS = ("document", "article", "text", "dialogue")
SUMMARIES = ("summary", "highlights")
METRICS = ("rouge1", "rouge2", "rougeL", "rougeLsum")
PARTS = 20
"""A text that is too long loses so much of itself at a time."""

_WORDS = re.compile(r"[a-z0-9]+|[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff]")


@dataclasses.dataclass(frozen=True)
class Document(Item):
    """A text that is to be summed up; `query` is the text."""

    def prompts(self) -> Iterator[tuple[str, int]]:
        """The text and ever shorter beginnings of it; how many characters each leaves out."""
        length = len(self.query)
        for part in range(PARTS, 0, -1):
            end = length * part // PARTS
            if end:
                text = self.query[:end]
                yield f"Summarize the following text.\n\n{text}\n\nSummary:", length - end


class Summarisation(Generations):
    """The mean of ROUGE's F1 over texts."""

    name = "summarisation"
    unit = "rougeL"
    stop = StopStrings(("\n\n",))

    def load(self, source: Path) -> Subjects:
        """Reads files of texts and summaries; see `Benchmark.load`.

        Raises:
          UserError: a record lacks one of both, or rouge_score is missing.
        """
        _scorer()
        found = sources.files(source, sources.TABLES)
        return {name: _documents(path) for name, path in sources.subjects(found).items()}

    def figures(self, records: Sequence[Record]) -> Figures:
        """The mean of each of `METRICS`."""
        scorer = _scorer()
        scores = [scorer.score(r["references"][0], r["prediction"]) for r in records]
        return {
            name: sum(score[name].fmeasure for score in scores) / len(scores) for name in METRICS
        }


class Words:
    """ROUGE's words, and Chinese, Japanese and Korean characters, which it knows nothing of."""

    def tokenize(self, text: str) -> list[str]:
        """The words of a text, in small letters."""
        return _WORDS.findall(text.lower())


def _documents(path: Path) -> list[Item]:
    name = sources.subject(path)
    return [
        Document(
            _first(row, TEXTS, place).strip(), (_first(row, SUMMARIES, place).strip(),), place, name
        )
        for place, row in sources.records(path)
    ]


def _first(row: Row, names: Sequence[str], place: str) -> str:
    """The first of some columns that a record has."""
    for name in names:
        if name in row:
            return sources.filled(row, name, place)
    raise UserError(f"{place} has none of the columns {', '.join(names)}; it has {', '.join(row)}.")


def _scorer() -> Any:
    try:
        from rouge_score import rouge_scorer
    except ImportError as error:
        raise UserError("ROUGE needs rouge_score; pip install 'openba_jax[evaluation]'.") from error
    return rouge_scorer.RougeScorer(list(METRICS), tokenizer=Words())


BENCHMARK = Summarisation()
