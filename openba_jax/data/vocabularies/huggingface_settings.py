"""What the JSON files of a Hugging Face folder say of the tokenizer in it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from openba_jax.data.vocabularies.settings import TokenizerSettings
from openba_jax.errors import UserError

CONFIG = "config.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
SPECIAL_TOKENS = "special_tokens_map.json"
ADDED_TOKENS = "added_tokens.json"
GENERATION = "generation_config.json"
CHAT_TEMPLATE = "chat_template.jinja"

ROLES = ("bos", "eos", "pad", "unk")

_KINDS = {
    **dict.fromkeys(("t5", "mt5", "umt5", "T5Tokenizer", "MT5Tokenizer"), "t5"),
    **dict.fromkeys(("openba", "OpenBATokenizer"), "openba"),
}
_OF_FOLDERS = ("auto_map", "name_or_path", "tokenizer_file", "added_tokens_decoder")
"""What of `tokenizer_config.json` belongs to a folder, or repeats ids."""


def huggingface_settings(tokenizer: Path) -> TokenizerSettings | None:
    """The settings of a tokenizer, from the files of Hugging Face beside it.

    Args:
      tokenizer: the file; `tokenizer.json` is one of Hugging Face's in any folder.

    Returns:
      None where no file beside it is Hugging Face's.

    Raises:
      UserError: A file is no JSON object.
    """
    folder = tokenizer.parent
    config = read_object(folder / CONFIG)
    named, roles = read_object(folder / TOKENIZER_CONFIG), read_object(folder / SPECIAL_TOKENS)
    if "model_type" not in config:  # Another program's.
        config = {}
    if not config and not named and not roles:
        return None
    json_file = tokenizer.suffix == ".json"
    kind = None if json_file else _kind(config, named)
    if kind == "openba":
        return TokenizerSettings()
    if kind == "t5":
        return TokenizerSettings(kind="t5")
    tokens = {i: token for token, i in _tokens(tokenizer, named)}
    found: dict[str, Any] = {}
    for role in ROLES:
        token = named.get(f"{role}_token", roles.get(f"{role}_token"))
        token = token.get("content") if isinstance(token, dict) else token
        found[role] = token if isinstance(token, str) else None
    ends = [*_numbers(folder, config, "eos")]
    if json_file:  # A sentencepiece model has roles of its own.
        for role in ("bos", "eos", "pad"):
            numbers = [*_numbers(folder, config, role)]
            found[role] = found[role] or next((tokens[i] for i in numbers if i in tokens), None)
    stop = dict.fromkeys(tokens[i] for i in ends if i in tokens and tokens[i] != found["eos"])
    adds_bos = named.get("add_bos_token")
    special = () if json_file else tuple(_special(folder, named))
    if (folder / CHAT_TEMPLATE).is_file():
        named = {**named, "chat_template": (folder / CHAT_TEMPLATE).read_text(encoding="utf-8")}
    return TokenizerSettings(
        **found,
        adds_bos=adds_bos if isinstance(adds_bos, bool) else None,
        stop=tuple(stop),
        special=special,
        tokenizer_config={k: v for k, v in named.items() if k not in _OF_FOLDERS},
    )


def _kind(config: Mapping[str, Any], named: Mapping[str, Any]) -> str | None:
    """The kind of a sentencepiece model, where its content leaves it open."""
    name = str(named.get("tokenizer_class") or "").removesuffix("Fast")
    return _KINDS.get(name) or _KINDS.get(str(config.get("model_type")))


def _numbers(folder: Path, config: Mapping[str, Any], role: str) -> Iterator[int]:
    """The ids that generation and model give a role."""
    for content in (read_object(folder / GENERATION), config):
        found = content.get(f"{role}_token_id")
        yield from (i for i in (found if isinstance(found, list) else [found]) if type(i) is int)


def _tokens(tokenizer: Path, named: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """Added tokens, and for a `tokenizer.json` all others, with their ids."""
    if tokenizer.suffix == ".json":
        content = read_object(tokenizer)
        vocab = content.get("model", {}).get("vocab", ())
        if isinstance(vocab, dict):
            yield from vocab.items()
        yield from ((token["content"], token["id"]) for token in content.get("added_tokens", ()))
    for number, token in named.get("added_tokens_decoder", {}).items():
        yield token["content"], int(number)


def _special(folder: Path, named: Mapping[str, Any]) -> Iterator[str]:
    """The special tokens beside a sentencepiece model, by id."""
    added = {str(token): int(i) for token, i in read_object(folder / ADDED_TOKENS).items()}
    for number, token in named.get("added_tokens_decoder", {}).items():
        if token.get("special"):
            added[token["content"]] = int(number)
    yield from sorted(added, key=lambda token: added[token])


def read_object(file: Path) -> dict[str, Any]:
    """A JSON object; empty where there is no file.

    Raises:
      UserError: The file is no JSON object.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file} cannot be read as JSON: {error}.") from error
    if not isinstance(content, dict):
        raise UserError(f"{file} holds no JSON object; give the files of one tokenizer.")
    return content
