"""Which pieces of a byte-pair tokenizer in a `tokenizer.json` stay, and the file of those."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Set
from typing import Any

from openba_jax.data.vocabularies.base import Vocabulary
from openba_jax.data.vocabularies.tokenizer_json import parse_tokenizer_json
from openba_jax.errors import UserError
from openba_jax.pruning.pieces.merges import pair_closure

_BYTE = re.compile("<0x[0-9A-F]{2}>")
_PAIRS = {"BertProcessing": ("sep", "cls"), "RobertaProcessing": ("sep", "cls")}
_WITHOUT_IDS = ("ByteLevel",)


def prune(
    content: bytes, vocabulary: Vocabulary, frequent: Set[int]
) -> tuple[bytes, list[int], int]:
    """A `tokenizer.json` with fewer pieces.

    The characters of a piece that stays do so, too, and the 256 letters of byte-level BPE in any
    case. A merge stays where both its parts and what they make stay.

    Args:
      content: the file.
      vocabulary: of it.
      frequent: the pieces to keep, by id.

    Returns:
      The new file; the ids of pieces and added tokens that stay, ascending: the new ids are their
      places; how many of them stay for the way to others alone.

    Raises:
      UserError: The tokenizer is of another kind than BPE, or has a part that is not known here.
      UserError: No piece of text would be left.
    """
    found, path = parse_tokenizer_json(content, vocabulary.path), vocabulary.path
    model = found["model"]
    _check(model, path)
    ids: dict[str, int] = model["vocab"]
    tokens = {i: piece for piece, i in ids.items()}
    added = {token["content"]: int(token["id"]) for token in found.get("added_tokens", ())}
    special = {*added.values(), *vocabulary.special_tokens().values()}
    stay = special | {i for piece, i in ids.items() if _BYTE.fullmatch(piece)}
    stay |= {ids[piece] for piece in byte_letters() if _is_byte_level(found) and piece in ids}
    if (unknown := model.get("unk_token")) in ids:
        stay.add(ids[unknown])
    if not frequent - stay:
        raise UserError(
            f"the {len(frequent)} most frequent pieces of {path} are bytes and special tokens "
            "alone; keep more, or count a corpus of text."
        )
    pairs = [tuple(m.split(" ", 1)) if isinstance(m, str) else tuple(m) for m in model["merges"]]
    ranks = {(left, right): rank for rank, (left, right) in reversed([*enumerate(pairs)])}
    wanted = {tokens[i] for i in frequent if i in tokens and i not in special}
    built = {ids[piece] for piece in pair_closure(wanted, ranks) if piece in ids}
    kept = sorted(frequent | stay | built)
    new = {old: i for i, old in enumerate(kept)}
    model["vocab"] = {piece: new[i] for piece, i in ids.items() if i in new}
    model["merges"] = [
        merge
        for merge, (left, right) in zip(model["merges"], pairs, strict=True)
        if {left, right, left + right} <= model["vocab"].keys()
    ]
    for token in found.get("added_tokens", ()):
        token["id"] = new[int(token["id"])]
    everything = {piece: new[i] for piece, i in (ids | added).items() if i in new}
    _renumber(found.get("post_processor"), everything, path)
    text = json.dumps(found, ensure_ascii=False)
    return text.encode("utf-8"), kept, len(built - frequent - stay)


def _check(model: Mapping[str, Any], path: object) -> None:
    """Checks that the model is one whose merges are known.

    Raises:
      UserError: It is not.
    """
    odd = [name for name in _ODD if model.get(name)]
    if model.get("type") != "BPE" or not isinstance(model.get("merges"), list) or odd:
        what = model.get("type") if model.get("type") != "BPE" else f"BPE with {' and '.join(odd)}"
        raise UserError(
            f"{path} is a tokenizer of the type {what}, whose vocabulary cannot be pruned; keep it "
            "whole."
        )


_ODD = ("dropout", "continuing_subword_prefix", "end_of_word_suffix")


def _is_byte_level(content: Mapping[str, Any]) -> bool:
    """Whether pieces are made of letters that stand for bytes."""
    return any('"ByteLevel"' in json.dumps(content.get(part)) for part in _PARTS)


_PARTS = ("pre_tokenizer", "decoder", "normalizer")


def byte_letters() -> list[str]:
    """The 256 letters that stand for bytes, as GPT-2 has them, by byte."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1)]
    printable += range(ord("®"), ord("ÿ") + 1)
    others = (i for i in range(256) if i not in printable)
    letters = {i: chr(i) for i in printable} | {i: chr(256 + n) for n, i in enumerate(others)}
    return [letters[i] for i in range(256)]


def _renumber(processor: Any, ids: Mapping[str, int], path: object) -> None:
    """Gives the tokens that a post-processor puts around a text their new ids.

    Raises:
      UserError: The post-processor is not known.
    """
    if processor is None or processor["type"] in _WITHOUT_IDS:
        return
    name = processor["type"]
    if name == "Sequence":
        for part in processor["processors"]:
            _renumber(part, ids, path)
    elif name == "TemplateProcessing":
        for token in processor["special_tokens"].values():
            token["ids"] = [ids[each] for each in token["tokens"]]
    elif name in _PAIRS:
        for key in _PAIRS[name]:
            processor[key] = [processor[key][0], ids[processor[key][0]]]
    else:
        raise UserError(
            f"{path} has a post-processor {name}, whose ids are not known; keep the vocabulary "
            "whole."
        )
