"""`ner`, whose answers can be nothing but the sentence with a label behind each word.

Of the tokens that may follow the likeliest is taken. Beside `ner` it says what malformed answers
cost a model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from openba_jax.data.ner.prompts import labels_of
from openba_jax.evaluation.asking import AskedModel
from openba_jax.evaluation.ner.ner import NER
from openba_jax.evaluation.ner.rewriting import Parts, Rewriting
from openba_jax.inference.constrained import answer_constrained


class ConstrainedNER(NER):
    """F1 of entities, of answers that are never malformed but where they are too long."""

    name = "ner_constrained"

    def generate(
        self, items: Sequence[Any], framed: Mapping[int, list[int]], asked: AskedModel
    ) -> Iterator[tuple[int, str]]:
        """Answers prompts, see `Generations.generate`."""
        numbers = list(framed)
        parts, vocabulary = Parts(asked.frame), asked.vocabulary
        sentences = [items[number].sentence for number in numbers]
        automata = [
            Rewriting(
                each.words, labels_of(each.types), parts.trie, parts.leading, vocabulary.eos_id
            )
            for each in sentences
        ]
        found = answer_constrained(
            asked.model,
            asked.params,
            list(framed.values()),
            automata,
            max_new_tokens=min(self.max_new_tokens, asked.decoder_length),
            batch_size=asked.batch_size,
        )
        for place, ids in found:
            yield numbers[place], vocabulary.decode(ids, skip_special_tokens=True)


BENCHMARK = ConstrainedNER()
