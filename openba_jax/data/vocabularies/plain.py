"""`PlainSentencePiece`: a sentencepiece model as it is, with its own special tokens."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from openba_jax.data.vocabularies.sentencepiece_proto import has_dummy_prefix, without_dummy_prefix
from openba_jax.data.vocabularies.sentencepiece_vocabulary import (
    SentencePieceVocabulary,
    load_pieces,
)
from openba_jax.data.vocabularies.settings import TokenizerSettings
from openba_jax.errors import UserError


class PlainSentencePiece(SentencePieceVocabulary):
    """The tokenizers of LLaMA 1 and 2, and of Gemma.

    Special are the control pieces of the model (`<s>`, `</s>`), the unknown one, and the tokens
    that the settings name. The space before a text stands at its beginning alone, and not behind a
    special token, as `transformers` has it.
    """

    kind: ClassVar[str] = "sentencepiece"

    def __init__(self, path: str | Path, settings: TokenizerSettings) -> None:
        """Reads a sentencepiece model.

        Args:
          path: the `.model` file.
          settings: what the file does not say.

        Raises:
          UserError: The file cannot be read, is a pointer of Git LFS, or is no sentencepiece model.
          UserError: There is no end of a text, or the settings name a token that is not there.
        """
        super().__init__(path, settings)
        everything = range(self.piece_count)
        own = [i for i in everything if self._pieces.IsControl(i) or self._pieces.IsUnknown(i)]
        self._tokens = {self._pieces.IdToPiece(i): i for i in own}
        end = self.piece_count
        for name in settings.named():
            if name in self._tokens:
                continue
            i = self._pieces.PieceToId(name)
            if i != self._pieces.unk_id():
                self._tokens[name] = i
            elif name in settings.special:
                self._tokens[name] = end
                end += 1
        self._end = end
        self._hide(name for name, i in self._tokens.items() if i < self.piece_count)
        if has_dummy_prefix(self._model):
            self._later = load_pieces(without_dummy_prefix(self._model), self.path)
        self._check_settings()
        eos, self.bos_id = self._role("eos"), self._role("bos")
        if eos is None:
            raise UserError(
                f'{path} has no token that ends a text; name one as "eos" in the settings beside '
                "it."
            )
        self.eos_id, self.unk_id = eos, self._role("unk")
        pad = self._role("pad")
        fallback = eos if self.unk_id is None else self.unk_id
        self.pad_id = fallback if pad is None else pad
        adds_bos = settings.adds_bos
        self.adds_bos = self.bos_id is not None and (adds_bos is None or adds_bos)
        self._find_special()

    def _role(self, name: str) -> int | None:
        """The id of `bos`, `eos`, `pad` or `unk`: as the settings say, or the model."""
        if token := getattr(self.settings, name):
            return self._tokens[token]
        i = int(getattr(self._pieces, f"{name}_id")())
        return None if i < 0 else i

    @property
    def token_count(self) -> int:
        """Ids in use: pieces, and special tokens behind them."""
        return self._end

    def special_tokens(self) -> dict[str, int]:
        """Controls, the unknown piece, and what the settings name."""
        return dict(self._tokens)
