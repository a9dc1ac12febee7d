"""`TokenizerJson`: a `tokenizer.json` of Hugging Face's library `tokenizers`."""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from openba_jax.data.vocabularies.base import Vocabulary
from openba_jax.data.vocabularies.sentencepiece_vocabulary import read_tokenizer, reject_half_pairs
from openba_jax.data.vocabularies.settings import TokenizerSettings
from openba_jax.errors import UserError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_HIDDEN = "\ufdd0"
"""A noncharacter of Unicode: before the name of a token, so that no text spells it."""

_NO_CHARACTER = "\ufffd"


class TokenizerJson(Vocabulary):
    """The tokenizers of LLaMA 3, Qwen, SmolLM2, GPT-2 and others.

    Special are the added tokens that the file calls so, and those that the settings name. Other
    added tokens are found in every text. The library finds special ones in every text, too; here a
    text is text, so that it is encoded by a second tokenizer, in which they have names that no text
    has.
    """

    kind: ClassVar[str] = "json"

    def __init__(self, path: str | Path, settings: TokenizerSettings) -> None:
        """Reads a `tokenizer.json`.

        Args:
          path: the file.
          settings: what the file does not say: `eos`, and `bos` and `pad` if there are such tokens.

        Raises:
          UserError: The file cannot be read, is a pointer of Git LFS, or is no such file.
          UserError: There is no end of a text, or the settings name a token that is not there.
        """
        self.path = Path(path)
        self.settings = settings
        content = read_tokenizer(self.path)
        self.fingerprint = hashlib.sha256(content).hexdigest()
        self._content = parse_tokenizer_json(content, self.path)
        self._tokenizer = _load(self._content, self.path, settings.named())
        added = self._tokenizer.get_added_tokens_decoder()
        self._tokens = {token.content: i for i, token in added.items() if token.special}
        self._names_of_ids = {i: name for name, i in self._tokens.items()}
        pieces = self._tokenizer.get_vocab(with_added_tokens=False)
        self.piece_count = max(pieces.values(), default=-1) + 1
        self._known = np.zeros(max(self.piece_count, *(i + 1 for i in added), 1), bool)
        self._known[[*pieces.values(), *added]] = True
        self._check_settings()
        if settings.eos is None:
            raise UserError(
                f'{path} does not say which token ends a text; name it as "eos" in the settings '
                "beside it."
            )
        self.eos_id, self.bos_id = self._tokens[settings.eos], self._role(settings.bos)
        self.unk_id = self._role(settings.unk)
        if self.unk_id is None:
            self.unk_id = self._unknown(pieces)
        pad = self._role(settings.pad)
        fallback = self.eos_id if self.unk_id is None else self.unk_id
        self.pad_id = fallback if pad is None else pad
        adds_bos = self._frames() if settings.adds_bos is None else settings.adds_bos
        self.adds_bos = self.bos_id is not None and adds_bos
        names = sorted(self._tokens, key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, names)))

    def _role(self, token: str | None) -> int | None:
        return None if token is None else self._tokens[token]

    def _unknown(self, pieces: Mapping[str, int]) -> int | None:
        """The id of the piece that the model puts for what is none."""
        model = self._content["model"]
        if model.get("type") == "Unigram":
            return None if model.get("unk_id") is None else int(model["unk_id"])
        return pieces.get(model.get("unk_token") or "")

    def _frames(self) -> bool:
        """Whether the file puts bos before a text."""
        plain = self._tokenizer.encode("a", add_special_tokens=False).ids
        framed = self._tokenizer.encode("a", add_special_tokens=True).ids
        return framed[:1] == [self.bos_id] and plain[:1] != [self.bos_id]

    @property
    def token_count(self) -> int:
        """One more than the largest id."""
        return len(self._known)

    def special_tokens(self) -> dict[str, int]:
        """The added tokens that are special, and those that the settings name."""
        return dict(self._tokens)

    def special_in(self, text: str) -> list[str]:
        """The special tokens that a text spells out, in order."""
        return self._special.findall(text)

    @functools.cached_property
    def _text_tokenizer(self) -> Tokenizer:
        """Encodes texts in which nothing is special."""
        return _load(_hidden(self._content, self._tokens), self.path, ())

    def encode_arrays(
        self, texts: Sequence[str], parse_special: bool = False, threads: int = -1
    ) -> list[np.ndarray]:
        """`encode_all` as int32 arrays.

        Args:
          texts: any texts.
          parse_special: see `encode`.
          threads: 1: each text after the other; else as many as the library takes.

        Raises:
          UserError: A text holds half of a surrogate pair.
        """
        tokenizer = self._tokenizer if parse_special else self._text_tokenizer
        batches = [[text] for text in texts] if threads == 1 else [list(texts)]
        try:
            encoded = [
                encoding.ids
                for batch in batches
                for encoding in tokenizer.encode_batch_fast(batch, add_special_tokens=False)
            ]
        except TypeError as error:  # What the library makes of half a surrogate pair.
            reject_half_pairs(texts, error)
            raise
        return [np.array(ids, np.int32) for ids in encoded]

    def decode(self, ids: Iterable[int], skip_special_tokens: bool = False) -> str:
        """The text of ids.

        Args:
          ids: any ids; those that no token has (padding rows of the embedding) count as `unk_id`,
            or as U+FFFD.
          skip_special_tokens: leave special tokens out.
        """
        runs: list[list[int]] = [[]]
        for i in map(int, ids):
            if skip_special_tokens and i in self._names_of_ids:
                continue
            if 0 <= i < len(self._known) and self._known[i]:
                runs[-1].append(i)
            elif self.unk_id is not None:
                runs[-1].append(self.unk_id)
            else:
                runs.append([])
        return _NO_CHARACTER.join(
            self._tokenizer.decode(run, skip_special_tokens=False) for run in runs
        )

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """The strings of pieces, `Ġ` for a space where pieces are bytes."""
        return [self._tokenizer.id_to_token(int(i)) or "" for i in ids]

    @property
    def separators(self) -> str:
        """None: the space belongs to the word behind it."""
        return ""


def parse_tokenizer_json(content: bytes, path: Path) -> dict[str, Any]:
    """The object of a `tokenizer.json`.

    Raises:
      UserError: It is none.
    """
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UserError(f"vocabulary {path} cannot be read as JSON: {error}.") from error
    model = found.get("model") if isinstance(found, dict) else None
    if not isinstance(model, dict) or not isinstance(model.get("vocab"), (dict, list)):
        raise UserError(f"vocabulary {path} is no tokenizer.json: it has no model with a vocab.")
    return dict(found)


def _load(content: Mapping[str, Any], path: Path, special: Iterable[str]) -> Tokenizer:
    """A tokenizer that cuts and fills up nothing, with some tokens made special.

    Raises:
      UserError: The library does not take it.
    """
    try:
        import tokenizers
    except ImportError as error:
        raise UserError(f"{path} needs the package tokenizers: pip install tokenizers.") from error
    try:
        tokenizer = tokenizers.Tokenizer.from_str(json.dumps(content))
    except Exception as error:  # The library raises nothing narrower.
        raise UserError(f"vocabulary {path} is no tokenizer.json: {error}.") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    known = tokenizer.get_vocab()
    tokenizer.add_special_tokens(
        [tokenizers.AddedToken(name, special=True) for name in special if name in known]
    )
    return tokenizer


def _hidden(content: Mapping[str, Any], tokens: Mapping[str, int]) -> dict[str, Any]:
    """A `tokenizer.json` in which special tokens have names that no text has."""

    def renamed(name: Any) -> Any:
        return f"{_HIDDEN}{name}" if name in tokens else name

    model = dict(content["model"])
    if isinstance(model["vocab"], dict):
        model["vocab"] = {renamed(piece): i for piece, i in model["vocab"].items()}
    else:
        model["vocab"] = [[renamed(piece), score] for piece, score in model["vocab"]]
    if isinstance(model.get("unk_token"), str):
        model["unk_token"] = renamed(model["unk_token"])
    added = [
        {**token, "content": renamed(token["content"])} for token in content.get("added_tokens", ())
    ]
    return {**content, "model": model, "added_tokens": added, "post_processor": None}
