"""An answer that grows token by token: what of its text may be shown, and when it ends."""

from __future__ import annotations

import itertools
from typing import Literal

from openba_jax.data.vocabularies.base import Vocabulary
from openba_jax.errors import UserError
from openba_jax.inference.decoding import NOT_FINITE
from openba_jax.inference.stop_strings import StopStrings

Finish = Literal["stop", "length"]
"""A stop token or string ended the answer, or it is as long as it may be."""

_UNFINISHED = "\ufffd"  # What decoders write for the first bytes of a character.


class GrowingAnswer:
    """Takes tokens, gives text.

    The text given so far is at all times a beginning of the whole: no half of a character, and
    nothing of a stop string.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        max_new_tokens: int,
        stop: StopStrings | None = None,
        keep_special: bool = False,
    ) -> None:
        """Begins an empty answer.

        Args:
          vocabulary: the model's.
          max_new_tokens: longest answer, sentinel and end of sequence included.
          stop: strings that end it.
          keep_special: special tokens but the first token and the end are text, as OpenBA's code
            demo has them.
        """
        self._vocabulary = vocabulary
        self._most = max_new_tokens
        self._stop = StopStrings() if stop is None else stop
        self._keep_special = keep_special
        self._stop_ids = frozenset(vocabulary.stop_ids)
        self._ids: list[int] = []
        self.text = ""
        self.finish: Finish | None = None

    @property
    def token_count(self) -> int:
        """Tokens taken, the one that ended the answer included."""
        return len(self._ids)

    def add(self, token: int) -> str:
        """Takes the next token and returns the text that is new and certain.

        Raises:
          UserError: the token stands for logits that are not finite.
        """
        if token == NOT_FINITE:
            raise UserError(
                "the logits are not finite, and no answer would mean anything; the compute type "
                "is too narrow for the parameters, or these are damaged."
            )
        self._ids.append(token)
        if token in self._stop_ids:
            self.finish = "stop"
        elif len(self._ids) >= self._most:
            self.finish = "length"
        whole = self._decoded()
        if (place := self._stop.find(whole)) is not None:
            self.finish = "stop"
            whole = whole[:place]
        elif self.finish is None:
            whole = whole.rstrip(_UNFINISHED)
            whole = whole[: self._stop.safe_length(whole)]
        new = whole[len(self.text) :]
        self.text += new
        return new

    def _with_special(self, ids: list[int]) -> str:
        """Special tokens as their strings, without blanks around them."""
        names = {number: name for name, number in self._vocabulary.special_tokens().items()}
        runs = itertools.groupby(ids, names.get)
        texts = (
            self._vocabulary.decode(run) if name is None else name * len(list(run))
            for name, run in runs
        )
        return "".join(texts)

    def _decoded(self) -> str:
        ids = self._ids[:-1] if self._ids[-1] in self._stop_ids else self._ids
        if self._keep_special:
            return self._with_special(ids[1:])
        return self._vocabulary.decode(ids, skip_special_tokens=True)
