"""`tokenizer_settings.json`: what the file of a tokenizer does not say.

It lies beside the tokenizer, `tokenizer_settings.json` for `tokenizer.model`, and is absent where
there is nothing to say. Tokens are named by their strings, which stay when ids move.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from openba_jax.errors import UserError
from openba_jax.files import write_atomically

PREFIXES = ("R", "S", "X")


@dataclasses.dataclass(frozen=True)
class TokenizerSettings:
    """The content of a settings file; fields that are at their defaults do not appear in it.

    Attributes:
      kind: of the vocabulary, where the file leaves it open: OpenBA's and T5's sentencepiece models
        look the same.
      newline: the newline is a token of its own; OpenBA's alone.
      bos: the token that begins a text.
      eos: the token that ends a text.
      pad: the token of padding.
      unk: the token of what is no piece.
      adds_bos: whether texts begin with `bos`; None: as is usual for the kind.
      stop: further tokens that end an answer.
      special: further special tokens; those that are no pieces of a sentencepiece model get the ids
        behind it, in order.
      sentinels: tokens that stand for spans, the first span's first.
      prefixes: tokens for the prefixes `R`, `S` and `X` of denoising, by these letters.
      tokenizer_config: Hugging Face's `tokenizer_config.json` without ids, chat template included.
    """

    kind: str | None = None
    newline: bool = False
    bos: str | None = None
    eos: str | None = None
    pad: str | None = None
    unk: str | None = None
    adds_bos: bool | None = None
    stop: tuple[str, ...] = ()
    special: tuple[str, ...] = ()
    sentinels: tuple[str, ...] = ()
    prefixes: Mapping[str, str] = dataclasses.field(default_factory=dict)
    tokenizer_config: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def named(self) -> tuple[str, ...]:
        """All tokens that are named, each once."""
        roles = (self.bos, self.eos, self.pad, self.unk)
        names = [*roles, *self.stop, *self.special, *self.sentinels, *self.prefixes.values()]
        return tuple(dict.fromkeys(name for name in names if name is not None))

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON: what is not at its default."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in values.items()
            if value not in (None, False, (), {}) or (name == "adds_bos" and value is False)
        }


_FORMS: dict[str, str] = {
    "kind": "a text",
    "newline": "true or false",
    "adds_bos": "true or false",
    **dict.fromkeys(("bos", "eos", "pad", "unk"), "a text"),
    **dict.fromkeys(("stop", "special", "sentinels"), "a list of texts, each once"),
    "prefixes": "texts by the names R, S and X",
    "tokenizer_config": "an object",
}


def settings_path(model: str | Path) -> Path:
    """The settings file beside a tokenizer: `tokenizer_settings.json` for `tokenizer.model`."""
    model = Path(model)
    return model.with_name(f"{model.stem}_settings.json")


def read_settings(model: str | Path) -> TokenizerSettings | None:
    """The settings beside a tokenizer, or None where there is no file.

    Raises:
      UserError: The file cannot be understood.
    """
    path = settings_path(model)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read as JSON: {error}.") from error
    if not isinstance(found, dict) or not isinstance(found.get("newline", False), bool):
        raise UserError(f'{path} holds no settings; it should be {{"newline": true}} or be gone.')
    if unknown := sorted(found.keys() - _FORMS.keys()):
        raise UserError(f"{path} has settings that are not known: {', '.join(unknown)}.")
    for name, value in found.items():
        if not _has_form(name, value):
            raise UserError(f"{path} has {name} {value!r}; it should be {_FORMS[name]}.")
    lists = {name: tuple(value) for name, value in found.items() if isinstance(value, list)}
    return TokenizerSettings(**{**found, **lists})


def _has_form(name: str, value: Any) -> bool:
    if name in ("newline", "adds_bos"):
        return isinstance(value, bool)
    if name in ("kind", "bos", "eos", "pad", "unk"):
        return isinstance(value, str)
    if name == "tokenizer_config":
        return isinstance(value, dict)
    if name == "prefixes":
        return (
            isinstance(value, dict)
            and value.keys() <= set(PREFIXES)
            and all(isinstance(token, str) for token in value.values())
        )
    return (
        isinstance(value, list)
        and all(isinstance(token, str) for token in value)
        and len(set(value)) == len(value)
    )


def write_settings(model: str | Path, settings: TokenizerSettings) -> None:
    """Writes the settings of a tokenizer; where there is nothing to say, there is no file."""
    path = settings_path(model)
    if content := settings.to_dict():
        write_atomically(path, json.dumps(content, ensure_ascii=False) + "\n")
    else:
        path.unlink(missing_ok=True)
