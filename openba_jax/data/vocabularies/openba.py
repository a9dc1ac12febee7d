"""`OpenBAVocabulary`: a sentencepiece model, 100 sentinels, `<R>`, `<S>`, `<X>`, and the newline.

seqio's counterpart with the same ids is `openba_jax.seqio.vocabulary`; this one needs sentencepiece
alone.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import ClassVar

from openba_jax.data.vocabularies.sentencepiece_vocabulary import SentencePieceVocabulary
from openba_jax.data.vocabularies.settings import TokenizerSettings, read_settings
from openba_jax.errors import UserError
from openba_jax.objectives.special_ids import OpenBAIds


class OpenBAVocabulary(OpenBAIds, SentencePieceVocabulary):
    """OpenBA's tokenizer; a newline that is a token of its own is one in every text."""

    kind: ClassVar[str] = "openba"
    special_gap = " "

    def __init__(
        self,
        path: str | Path,
        newline: bool | None = None,
        settings: TokenizerSettings | None = None,
    ) -> None:
        r"""Reads a sentencepiece model.

        Args:
          path: the `.model` file; its ids must be `<pad>` 0, `</s>` 1, `<unk>` 2.
          newline: `"\n"` is a token of its own, as in V2's training data; else sentencepiece
            encodes it, most models as a space. None: as the settings say.
          settings: what the file does not say; None: those beside it.

        Raises:
          UserError: The file cannot be read, is a pointer of Git LFS, or is no sentencepiece model.
          UserError: The model has other ids for `<pad>`, `</s>` and `<unk>`.
          UserError: The settings file beside the model cannot be understood.
        """
        SentencePieceVocabulary.__init__(self, path, TokenizerSettings())
        if settings is None:
            settings = read_settings(path) or TokenizerSettings()
        newline = settings.newline if newline is None else newline
        self.settings = dataclasses.replace(settings, newline=newline)
        OpenBAIds.__init__(self, self.piece_count, newline)
        ids = (self._pieces.pad_id(), self._pieces.eos_id(), self._pieces.unk_id())
        if ids != (self.pad_id, self.eos_id, self.unk_id):
            raise UserError(
                f"vocabulary {path} has pad, eos and unk at {ids}; OpenBA needs them at (0, 1, 2)."
            )
        self._find_special()
