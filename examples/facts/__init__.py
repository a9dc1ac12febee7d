"""True facts in two languages as a corpus, instruction pairs and four-choice questions.

Real knowledge without the network: hand-written tables (`tables`), wordings for each relation
(`relation`), and a renderer that is a pure function of its seed (`corpus`). What a small model
learned from the corpus can be measured with the questions.

    python -m examples.facts --output_dir=DIR
"""

from examples.facts.relation import LANGUAGES, Fact, Relation
from examples.facts.tables import RELATIONS
from examples.facts.writing import write

__all__ = ["LANGUAGES", "RELATIONS", "Fact", "Relation", "write"]
