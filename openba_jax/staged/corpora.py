"""The data of a staged run: tokenizer, token stores and batches, for each vocabulary."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from openba_jax.data.loader import BatchLoader
from openba_jax.data.text.chunks import TextSource
from openba_jax.data.text.documents import column, read_records
from openba_jax.data.text.preparation import prepare
from openba_jax.data.text.rules import Instructions, TextGroups
from openba_jax.data.vocabularies.base import Vocabulary
from openba_jax.data.vocabularies.registry import (
    TOKENIZER_FILES,
    open_vocabulary,
    save_tokenizer,
    tokenizer_file,
)
from openba_jax.data.vocabulary_training import train_vocabulary
from openba_jax.errors import UserError
from openba_jax.objectives.mixture import get_mixture
from openba_jax.staged.settings import Data

TOKENIZER = "tokenizer.model"


class Corpora:
    """A folder for each vocabulary: the tokenizer and, beside it, what was prepared with it."""

    def __init__(self, folder: Path, data: Data, seed: int, kind: str = "openba") -> None:
        """Keeps the folder, the settings, the seed of all batches, and the kind of tokenizer."""
        self.data = data
        self._kind = kind
        self._folder = folder
        self._seed = seed

    @property
    def tokenizer(self) -> Path:
        """The tokenizer of the ancestor: the one that was adopted, or that is trained."""
        full = self._folder / "full"
        adopted = full / TOKENIZER_FILES["json"]
        return adopted if adopted.exists() else full / TOKENIZER

    def adopt_tokenizer(self, tokenizer: Path) -> Vocabulary:
        """Takes over the tokenizer of an ancestor that is there already.

        Raises:
          UserError: it cannot be read.
        """
        if not self.tokenizer.exists():
            save_tokenizer(self._folder / "full", tokenizer)
        return open_vocabulary(self.tokenizer)

    def train_tokenizer(self) -> Vocabulary:
        """Trains the tokenizer on corpus and instructions together.

        Raises:
          UserError: a file cannot be read, or the corpus holds no text.
        """
        if self.tokenizer.exists():
            return open_vocabulary(self.tokenizer)
        self.tokenizer.parent.mkdir(parents=True, exist_ok=True)
        return train_vocabulary(
            self._texts(),
            self.data.vocabulary_size,
            self.tokenizer,
            character_coverage=1.0,
            kind=self._kind,
        )

    def home(self, tokenizer: Path) -> Vocabulary:
        """The same vocabulary in the folder here that its stores lie in."""
        vocabulary = open_vocabulary(tokenizer)
        full = open_vocabulary(self.tokenizer)
        if vocabulary.fingerprint == full.fingerprint:
            return full
        folder = self._folder / f"pruned_{vocabulary.fingerprint[:8]}"
        if not (path := folder / tokenizer_file(vocabulary)).exists():
            save_tokenizer(folder, vocabulary)
        return open_vocabulary(path)

    def batches(
        self, vocabulary: Vocabulary, mixture_name: str, part: int = 0, evaluated_on: str = ""
    ) -> BatchLoader:
        """Batches of a mixture; stores are made beside the tokenizer where they are missing.

        Args:
          vocabulary: that of `home`.
          mixture_name: what to draw.
          part: another part of the run gets other batches to train on, and the same ones to
            evaluate on.
          evaluated_on: mixture to evaluate on; empty: the same one.
        """
        mixture = get_mixture(mixture_name)
        kinds = {task.kind for task in mixture.tasks}
        folder = Path(vocabulary.path).parent
        stores: list[Path] = []
        if self.data.stores:
            stores += map(Path, self.data.stores)
        elif "text" in kinds:
            stores.append(folder / "spans")
            rule = TextGroups(group_size=self.data.group_size, batch_size=0)
            prepare([TextSource("corpus", self.data.corpus)], rule, vocabulary, stores[-1])
        if "instructions" in kinds and self.data.instructions:
            stores.append(folder / "instructions")
            instructions = Instructions(max_length=self.data.encoder_length - 3)
            sources = [TextSource("instructions", self.data.instructions)]
            prepare(sources, instructions, vocabulary, stores[-1])
        return BatchLoader(
            mixture,
            stores,
            vocabulary,
            batch_size=self.data.batch_size,
            encoder_length=self.data.encoder_length,
            decoder_length=self.data.decoder_length,
            seed=self._seed + part,
            held_out=self.data.held_out,
            evaluation_mixture=get_mixture(evaluated_on) if evaluated_on else None,
        )

    def token_counts(self, vocabulary: Vocabulary) -> list[Path]:
        """The files of token counts of all stores that were made with a vocabulary."""
        given = [Path(f"{store}.counts.txt") for store in self.data.stores]
        made = sorted(Path(vocabulary.path).parent.glob("*.counts.txt"))
        return [*(path for path in given if path.exists()), *made]

    def _texts(self) -> Iterator[str]:
        corpus, instructions = self.data.corpus, self.data.instructions
        written, paired = False, False
        for place, record in read_records(corpus, "text"):
            text = column(record, "text", place)
            written = written or bool(text.strip())
            yield text
        if not written:
            raise UserError(f"{', '.join(map(str, corpus)) or 'the corpus'} holds no text.")
        for place, record in read_records(instructions, "inputs"):
            paired = True
            yield f"{column(record, 'inputs', place)} {column(record, 'targets', place)}"
        if instructions and not paired:
            files = ", ".join(map(str, instructions))
            raise UserError(f"{files} holds no pair of inputs and targets, and tuning needs some.")
