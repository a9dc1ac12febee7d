"""Named entities in sentences that a model rewrites with a label behind each word (GNER).

A folder has the data sets as columns, `NAME/test.txt` and `NAME/label.txt`, as MIT's and CrossNER's
are passed on, or GNER's JSON records (docs/ner.md). Each data set is a subject; the total is the
mean of their F1.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from openba_jax.data.ner.sentences import Sentence, read
from openba_jax.evaluation.asking import AskedModel
from openba_jax.evaluation.benchmarks.base import Advance, Record, Subjects, ignore_progress
from openba_jax.evaluation.generation.base import CorpusGenerations, Figures, Item, share
from openba_jax.evaluation.ner.parsing import is_exact, labels_for
from openba_jax.evaluation.ner.spans import entities, precision_recall_f1


class NER(CorpusGenerations):
    """F1 of entities over each data set."""

    name = "ner"
    unit: ClassVar[str] = "f1"
    max_new_tokens: ClassVar[int] = 640

    def load(self, source: Path) -> Subjects:
        """Reads the sentences of `test`; see `Benchmark.load`.

        Raises:
          UserError: there are no sentences, or one is malformed.
        """
        found = read(source, "test")
        return {name: [as_item(each) for each in part] for name, part in found.items()}

    def answers(
        self, items: Sequence[Any], asked: AskedModel, advance: Advance = ignore_progress
    ) -> list[Record]:
        """Asks for labels, see `Benchmark.answers`; each record gets those of its words.

        A sentence that is skipped has none, and misses all of its entities.
        """
        records = super().answers(items, asked, advance)
        vocabulary = asked.vocabulary

        def spelled(word: str) -> str:
            return vocabulary.decode(vocabulary.encode(word), skip_special_tokens=True)

        for record, item in zip(records, items, strict=True):
            sentence = item.sentence
            text = record["prediction"]
            record["labels"] = labels_for(sentence.words, text, sentence.types, spelled)
            record["exact"] = is_exact(sentence.words, text, sentence.types)
        return records

    def record(self, item: Any) -> Record:
        """What is known before a sentence is asked."""
        sentence = item.sentence
        own = {"words": list(sentence.words), "gold": list(sentence.labels)}
        return {**super().record(item), **own}

    def figures(self, records: Sequence[Record]) -> Figures:
        """F1, precision and recall, and the share of answers that are no rewritten sentence."""
        precision, recall, f1 = precision_recall_f1(
            (entities(r["words"], r["gold"]), entities(r["words"], r["labels"])) for r in records
        )
        malformed = share([not record["exact"] for record in records])
        return {"f1": f1, "precision": precision, "recall": recall, "malformed": malformed}


@dataclasses.dataclass(frozen=True, kw_only=True)
class SentenceItem(Item):
    """A sentence as a question.

    Attributes:
      sentence: the sentence.
    """

    sentence: Sentence


def as_item(sentence: Sentence) -> SentenceItem:
    """A sentence as a question."""
    return SentenceItem(
        query=sentence.prompt,
        references=(sentence.answer,),
        place=sentence.place,
        subject=sentence.dataset,
        sentence=sentence,
    )


BENCHMARK = NER()
