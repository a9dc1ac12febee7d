"""The lists that a GGUF file holds in place of a tokenizer's file, both ways.

The keys are those of its metadata behind `tokenizer.`:
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md#tokenizer
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from openba_jax.data.vocabularies.base import Vocabulary
from openba_jax.data.vocabularies.sentencepiece_proto import ModelProto, PieceType
from openba_jax.data.vocabularies.settings import TokenizerSettings, write_settings
from openba_jax.data.vocabularies.tokenizer_json import parse_tokenizer_json
from openba_jax.errors import UserError

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
"""Types of tokens, `tokenizer.ggml.token_type`; sentencepiece's numbers."""

_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_PATTERNS = {
    "llama-bpe": _LLAMA3,
    "llama3": _LLAMA3,
    "qwen2": _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}"),
}
"""Names of pre-tokenizers that cut by one pattern."""

_DIGITS = ("smollm", "starcoder", "refact", "command-r")
"""Names of those that cut at every digit, and then as GPT-2."""

_WHOLE = ("llama-bpe", "llama3")
"""Names of those whose pieces need no merges where a word is one."""


def tokenizer_json_from_gguf(fields: Mapping[str, Any]) -> tuple[str, TokenizerSettings]:
    """The `tokenizer.json` of a byte-level BPE tokenizer in GGUF's metadata.

    Args:
      fields: values by key, as plain Python values: `tokenizer.ggml.model` (`gpt2`),
        `tokenizer.ggml.pre`, `tokenizer.ggml.tokens`, `tokenizer.ggml.token_type`,
        `tokenizer.ggml.merges` (`"a b"`), and where there are any the ids
        `tokenizer.ggml.{bos,eos,eot,unknown,padding}_token_id`, `tokenizer.ggml.add_bos_token` and
        `tokenizer.chat_template`. Others are not looked at.

    Returns:
      The text of the file, and the settings that belong beside it.

    Raises:
      UserError: A list is missing, they do not fit together, or the pre-tokenizer is not known.
    """
    model, pre = fields.get("tokenizer.ggml.model"), fields.get("tokenizer.ggml.pre", "gpt-2")
    if model != "gpt2":
        raise UserError(
            f"the GGUF tokenizer is of the model {model!r}; only gpt2, byte-level BPE, becomes a "
            "tokenizer.json."
        )
    tokens: Sequence[str] = _list(fields, "tokenizer.ggml.tokens")
    types: Sequence[int] = _list(fields, "tokenizer.ggml.token_type")
    merges: Sequence[str] = _list(fields, "tokenizer.ggml.merges")
    if len(tokens) != len(types):
        raise UserError(
            f"the GGUF tokenizer has {len(tokens)} tokens and {len(types)} types; the file is "
            "damaged."
        )
    vocab = {token: i for i, token in enumerate(tokens) if types[i] != UNUSED}
    added = [
        {
            "id": i,
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": types[i] != USER_DEFINED,
        }
        for i, token in enumerate(tokens)
        if types[i] in (CONTROL, UNKNOWN, USER_DEFINED)
    ]
    pairs = [merge.split(" ", 1) for merge in merges]
    for pair in pairs:
        if len(pair) != 2 or not {*pair, "".join(pair)} <= vocab.keys():
            raise UserError(f"the GGUF tokenizer merges {pair}, which are no tokens of it.")
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": {"type": "NFC"} if pre == "qwen2" else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": _pre_tokenizers(pre)},
        "post_processor": None,
        "decoder": {
            "type": "ByteLevel",
            "add_prefix_space": True,
            "trim_offsets": True,
            "use_regex": True,
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": pre in _WHOLE,
            "vocab": vocab,
            "merges": pairs,
        },
    }
    return json.dumps(content, ensure_ascii=False), _settings(fields, tokens)


def _list(fields: Mapping[str, Any], name: str) -> list[Any]:
    found = fields.get(name)
    if not isinstance(found, list | tuple) or not found:
        raise UserError(f"the GGUF tokenizer has no list {name}; the file is damaged.")
    return list(found)


def _pre_tokenizers(name: str) -> list[dict[str, Any]]:
    """How a text is cut before its bytes are joined."""
    whole = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    if name in _DIGITS:
        digits = {"type": "Digits", "individual_digits": True}
        return [digits, {**whole, "use_regex": True}]
    if name in ("gpt-2", "default"):
        return [{**whole, "use_regex": True}]
    if name in _PATTERNS:
        pattern = {"Regex": _PATTERNS[name]}
        split = {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False}
        return [split, {**whole, "use_regex": False}]
    known = ", ".join(sorted({*_DIGITS, "gpt-2", "default", *_PATTERNS}))
    raise UserError(f"the GGUF tokenizer has the pre-tokenizer {name!r}; known are {known}.")


def _settings(fields: Mapping[str, Any], tokens: Sequence[str]) -> TokenizerSettings:
    """The settings that roles and chat template give."""

    def token(role: str) -> str | None:
        i = fields.get(f"tokenizer.ggml.{role}_token_id")
        if i is not None and not 0 <= i < len(tokens):
            raise UserError(f"the GGUF tokenizer has {role} {i} and {len(tokens)} tokens.")
        return None if i is None else tokens[i]

    bos, eos, eot, pad, unk = map(token, ("bos", "eos", "eot", "padding", "unknown"))
    if eos is None:
        raise UserError("the GGUF tokenizer does not say which token ends a text.")
    adds_bos = fields.get("tokenizer.ggml.add_bos_token")
    template = fields.get("tokenizer.chat_template")
    return TokenizerSettings(
        bos=bos,
        eos=eos,
        pad=pad,
        unk=unk,
        adds_bos=None if adds_bos is None else bool(adds_bos),
        stop=(eot,) if eot is not None and eot != eos else (),
        tokenizer_config={"chat_template": template} if template else {},
    )


def gguf_fields(vocabulary: Vocabulary) -> dict[str, Any]:
    """A vocabulary as GGUF's metadata hold it: the reverse of `tokenizer_json_from_gguf`.

    Sentencepiece's BPE models become the model `llama`, its unigram models `t5`, and byte-level BPE
    `gpt2`.

    Returns:
      Plain Python values by key; the lists have `vocabulary.token_count` entries.

    Raises:
      UserError: GGUF has no name for this kind of tokenizer.
    """
    content = vocabulary.path.read_bytes()
    if vocabulary.kind == "json":
        fields = _json_fields(parse_tokenizer_json(content, vocabulary.path), vocabulary)
    else:
        fields = _sentencepiece_fields(ModelProto.FromString(content), vocabulary)
    roles = {
        "bos": vocabulary.bos_id,
        "eos": vocabulary.eos_id,
        "unknown": vocabulary.unk_id,
        "padding": vocabulary.pad_id,
    }
    ids = {f"tokenizer.ggml.{role}_token_id": i for role, i in roles.items() if i is not None}
    fields |= ids | {"tokenizer.ggml.add_bos_token": vocabulary.adds_bos}
    if len(vocabulary.stop_ids) > 1:
        fields["tokenizer.ggml.eot_token_id"] = vocabulary.stop_ids[1]
    if template := vocabulary.settings.tokenizer_config.get("chat_template"):
        fields["tokenizer.chat_template"] = template
    return fields


def _json_fields(content: Mapping[str, Any], vocabulary: Vocabulary) -> dict[str, Any]:
    model = content["model"]
    name = pre_tokenizer_name(content)
    if model.get("type") != "BPE" or name is None:
        raise UserError(
            f"{vocabulary.path} is no byte-level BPE tokenizer with a pre-tokenizer that GGUF "
            "has a name for; write another format."
        )
    tokens = [f"[PAD{i}]" for i in range(vocabulary.token_count)]
    types = [UNUSED] * vocabulary.token_count
    for piece, i in model["vocab"].items():
        tokens[i], types[i] = piece, NORMAL
    special = vocabulary.special_tokens()
    for token in content.get("added_tokens", ()):
        i, text = token["id"], token["content"]
        tokens[i], types[i] = text, CONTROL if text in special else USER_DEFINED
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": name,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": merges,
    }


def pre_tokenizer_name(content: Mapping[str, Any]) -> str | None:
    """GGUF's name of the pre-tokenizer of a `tokenizer.json`, or None if it has none."""
    found = content.get("pre_tokenizer") or {}
    parts = found.get("pretokenizers", [found])
    if not parts or parts[-1].get("type") != "ByteLevel" or parts[-1].get("add_prefix_space"):
        return None
    if len(parts) == 1:
        return "gpt-2" if parts[0].get("use_regex", True) else None
    if len(parts) == 2 and parts[0].get("type") == "Digits":
        return "smollm" if parts[0].get("individual_digits") else None
    if len(parts) == 2 and parts[0].get("type") == "Split":
        pattern = parts[0].get("pattern", {}).get("Regex")
        # LLaMA's and Qwen's own files; of several names for one pattern the first.
        return next((name for name, known in _PATTERNS.items() if known == pattern), None)
    return None


def _sentencepiece_fields(proto: Any, vocabulary: Vocabulary) -> dict[str, Any]:
    names = {proto.trainer_spec.BPE: "llama", proto.trainer_spec.UNIGRAM: "t5"}
    name = names.get(proto.trainer_spec.model_type)
    if name is None:
        raise UserError(
            f"{vocabulary.path} is neither a BPE nor a unigram model, and GGUF has no other; write "
            "another format."
        )
    tokens = [piece.piece for piece in proto.pieces]
    scores = [float(piece.score) for piece in proto.pieces]
    types = [int(piece.type) for piece in proto.pieces]
    more = vocabulary.token_count - len(tokens)
    tokens += [f"[PAD{len(tokens) + i}]" for i in range(more)]
    scores += [-1000.0] * more
    types += [int(PieceType.UNUSED)] * more
    for token, i in vocabulary.special_tokens().items():
        if i >= vocabulary.piece_count:
            tokens[i] = token
        if types[i] != UNKNOWN:
            types[i] = CONTROL
    spec = proto.normalizer_spec
    fields = {
        "tokenizer.ggml.model": name,
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": scores,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.add_space_prefix": bool(spec.add_dummy_prefix),
    }
    if name == "t5":
        fields["tokenizer.ggml.remove_extra_whitespaces"] = bool(spec.remove_extra_whitespaces)
        fields["tokenizer.ggml.precompiled_charsmap"] = list(spec.precompiled_charsmap)
    return fields


def tokenizer_of_gguf(fields: Mapping[str, Any], folder: Path) -> Path:
    """Writes the tokenizer of a GGUF file and its settings for `open_vocabulary`.

    Args:
      fields: metadata by key, see `tokenizer_json_from_gguf`; sentencepiece's models have
        `tokenizer.ggml.scores` instead of merges.
      folder: where.

    Returns:
      The path of the tokenizer's file.

    Raises:
      UserError: The metadata do not make a tokenizer of a known kind.
    """
    if fields.get("tokenizer.ggml.model") == "gpt2":
        content, settings = tokenizer_json_from_gguf(fields)
        path = folder / "tokenizer.json"
        write_settings(path, settings)
        path.write_text(content, encoding="utf-8")
        return path
    model, settings = sentencepiece_from_gguf(fields)
    path = folder / "tokenizer.model"
    write_settings(path, settings)
    path.write_bytes(model)
    return path


def sentencepiece_from_gguf(fields: Mapping[str, Any]) -> tuple[bytes, TokenizerSettings]:
    """The sentencepiece model in GGUF's metadata: BPE under the name `llama`, unigram under `t5`.

    Tokens behind the pieces, sentinels and unused rows, are no part of it.

    Raises:
      UserError: A list is missing, they do not fit together, or the model has another name.
    """
    name = fields.get("tokenizer.ggml.model")
    if name not in ("llama", "t5"):
        raise UserError(f"the GGUF tokenizer has the model {name!r}; known are gpt2, llama and t5.")
    tokens: list[str] = _list(fields, "tokenizer.ggml.tokens")
    types: list[int] = _list(fields, "tokenizer.ggml.token_type")
    scores: list[float] = _list(fields, "tokenizer.ggml.scores")
    if not len(tokens) == len(types) == len(scores):
        raise UserError(
            f"the GGUF tokenizer has {len(tokens)} tokens, {len(types)} types and {len(scores)} "
            "scores; the file is damaged."
        )
    sentinels = [token for token in tokens if _SENTINEL.fullmatch(token)] if name == "t5" else []
    while tokens and (tokens[-1] in sentinels or _UNUSED.fullmatch(tokens[-1])):
        tokens.pop()
    proto = ModelProto()
    for token, score, kind in zip(tokens, scores, types, strict=False):
        proto.pieces.add(piece=token, score=score, type=kind)
    spec = proto.trainer_spec
    spec.model_type = spec.BPE if name == "llama" else spec.UNIGRAM
    spec.byte_fallback = BYTE in types
    for role in ("bos", "eos", "unknown", "padding"):
        field = {"unknown": "unk", "padding": "pad"}.get(role, role)
        i = fields.get(f"tokenizer.ggml.{role}_token_id", -1)
        setattr(spec, f"{field}_id", i if i < len(tokens) else -1)
        if 0 <= i < len(tokens):
            setattr(spec, f"{field}_piece", tokens[i])
    normalizer = proto.normalizer_spec
    normalizer.name = "identity"
    normalizer.add_dummy_prefix = bool(fields.get("tokenizer.ggml.add_space_prefix", True))
    extra = fields.get("tokenizer.ggml.remove_extra_whitespaces", name == "t5")
    normalizer.remove_extra_whitespaces = bool(extra)
    normalizer.precompiled_charsmap = bytes(fields.get("tokenizer.ggml.precompiled_charsmap", ()))
    settings = _settings(fields, _list(fields, "tokenizer.ggml.tokens"))
    return proto.SerializeToString(), (
        TokenizerSettings(kind="t5") if sentinels else dataclasses.replace(settings, unk=None)
    )


_SENTINEL = re.compile(r"<extra_id_\d+>")
_UNUSED = re.compile(r"\[PAD\d+\]")
