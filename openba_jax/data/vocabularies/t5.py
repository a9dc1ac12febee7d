"""`T5Vocabulary`: a sentencepiece model and 100 sentinels, as T5, mT5 and UL2 have them."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from openba_jax.data.vocabularies.sentencepiece_vocabulary import SentencePieceVocabulary
from openba_jax.data.vocabularies.settings import TokenizerSettings
from openba_jax.errors import UserError
from openba_jax.objectives.special_ids import SENTINELS


class T5Vocabulary(SentencePieceVocabulary):
    """T5's tokenizer (Raffel et al. 2020, arXiv:1910.10683).

    `<pad>` 0, `</s>` 1, `<unk>` 2. With P pieces `<extra_id_99>` .. `<extra_id_0>` are P .. P+99:
    32,000 .. 32,099 in T5. Where the model has pieces of these names, as mT5's, those are the
    sentinels. Tokens that the settings name as `special` follow.
    """

    kind: ClassVar[str] = "t5"
    special_gap = " "

    def __init__(self, path: str | Path, settings: TokenizerSettings) -> None:
        """Reads a sentencepiece model.

        Args:
          path: the `.model` file; its ids must be `<pad>` 0, `</s>` 1, `<unk>` 2.
          settings: what the file does not say.

        Raises:
          UserError: The file cannot be read, is a pointer of Git LFS, or is no sentencepiece model.
          UserError: The model has other ids for `<pad>`, `</s>` and `<unk>`.
          UserError: The settings name a token that is not there.
        """
        super().__init__(path, settings)
        ids = (self._pieces.pad_id(), self._pieces.eos_id(), self._pieces.unk_id())
        if ids != (0, 1, 2):
            raise UserError(
                f"vocabulary {path} has pad, eos and unk at {ids}; T5 needs them at (0, 1, 2)."
            )
        self.pad_id, self.eos_id, self.unk_id = ids
        tokens = {"<pad>": 0, "</s>": 1, "<unk>": 2}
        own = self._own_sentinels()
        self._hide(self._pieces.IdToPiece(i) for i in own.values())
        end = self.piece_count
        if not own:
            own = {f"<extra_id_{k}>": end + SENTINELS - 1 - k for k in range(SENTINELS)}
            end += SENTINELS
        self._tokens = tokens | own
        for name in settings.special:
            if name not in self._tokens:
                self._tokens[name] = end
                end += 1
        self._end = end
        self._find_special()
        self._check_settings()

    @property
    def token_count(self) -> int:
        """Ids in use: pieces, sentinels, further special tokens."""
        return self._end

    def special_tokens(self) -> dict[str, int]:
        """`<pad>`, `</s>`, `<unk>`, `<extra_id_0>` and so on."""
        return dict(self._tokens)

    def _own_sentinels(self) -> dict[str, int]:
        """The sentinels that are pieces, with or without the mark of a space."""
        found: dict[str, int] = {}
        for k in range(SENTINELS):
            for piece in (f"<extra_id_{k}>", f"▁<extra_id_{k}>"):
                if (i := self._pieces.PieceToId(piece)) != self._pieces.unk_id():
                    found[f"<extra_id_{k}>"] = i
        return found
