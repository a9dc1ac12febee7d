"""Translation, measured by BLEU and chrF (sacrebleu).

A folder has a file for each direction, `en-zh.jsonl` or `.parquet`, whose records hold the
languages as columns, or as those of a column `translation`, as WMT's do. Prompts are those of
lm-evaluation-harness.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from openba_jax.errors import UserError
from openba_jax.evaluation.benchmarks.base import Record, Subjects
from openba_jax.evaluation.generation import sources
from openba_jax.evaluation.generation.base import CorpusGenerations, Figures, Item
from openba_jax.inference.stop_strings import StopStrings

LANGUAGES = {
    **{"ar": "Arabic", "cs": "Czech", "de": "German", "en": "English", "es": "Spanish"},
    **{"fi": "Finnish", "fr": "French", "hi": "Hindi", "it": "Italian", "ja": "Japanese"},
    **{"ko": "Korean", "nl": "Dutch", "pl": "Polish", "pt": "Portuguese", "ro": "Romanian"},
    **{"ru": "Russian", "tr": "Turkish", "uk": "Ukrainian", "vi": "Vietnamese", "zh": "Chinese"},
}
TOKENIZERS = {"zh": "zh", "ja": "char", "ko": "char"}
"""How BLEU cuts a language in words, where it does not do so at blanks."""


class Translation(CorpusGenerations):
    """BLEU and chrF over all sentences of a direction."""

    name = "translation"
    unit = "bleu"
    stop = StopStrings(("\n",))

    def load(self, source: Path) -> Subjects:
        """Reads a file for each direction; see `Benchmark.load`.

        Raises:
          UserError: the name of a file is no direction, a sentence is missing, or sacrebleu is.
        """
        _sacrebleu()
        found = sources.files(source, sources.TABLES)
        return {name: _direction(path) for name, path in sources.subjects(found).items()}

    def figures(self, records: Sequence[Record]) -> Figures:
        """BLEU and chrF of the corpus, from 0 to 1."""
        metrics = _sacrebleu()
        answers = [record["prediction"] for record in records]
        references = [[record["references"][0] for record in records]]
        target = records[0]["subject"].partition("-")[2]
        bleu = metrics.BLEU(tokenize=TOKENIZERS.get(target, "13a"))
        chrf = metrics.CHRF()
        return {
            "bleu": bleu.corpus_score(answers, references).score / 100,
            "chrf": chrf.corpus_score(answers, references).score / 100,
        }


def _direction(path: Path) -> list[Item]:
    name = sources.subject(path)
    languages = name.split("-")
    if len(languages) != 2 or not set(languages) <= set(LANGUAGES):
        raise UserError(
            f"{path} names no direction; call it SOURCE-TARGET, such as en-zh, with two of "
            f"{', '.join(LANGUAGES)}."
        )
    items = []
    for place, record in sources.records(path):
        inner = record.get("translation", record)
        if not isinstance(inner, dict):
            raise UserError(f"{place}: 'translation' holds no languages; an object is expected.")
        text, target = (sources.filled(inner, language, place) for language in languages)
        before, behind = (LANGUAGES[language] for language in languages)
        query = f"{before} phrase: {text.strip()}\n{behind} phrase:"
        items.append(Item(query, (target.strip(),), place, name))
    return items


def _sacrebleu() -> Any:
    try:
        import sacrebleu.metrics
    except ImportError as error:
        raise UserError("BLEU needs sacrebleu; pip install 'openba_jax[evaluation]'.") from error
    return sacrebleu.metrics


BENCHMARK = Translation()
