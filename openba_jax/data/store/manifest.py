"""`PREFIX.json`: what a token store was made from, by what rule, and whether it is finished."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, get_args

import numpy as np
from absl import logging

from openba_jax.data.store.token_store import TokenStore
from openba_jax.data.vocabularies.base import Vocabulary
from openba_jax.data.vocabularies.settings import settings_path
from openba_jax.errors import UserError
from openba_jax.files import sha256, write_atomically
from openba_jax.objectives.token_rows import Kind


def sibling(prefix: str | Path, suffix: str) -> Path:
    """A file of a store, whose prefix may contain dots."""
    prefix = Path(prefix)
    return prefix.with_name(prefix.name + suffix)


def manifest_path(prefix: str | Path) -> Path:
    """The manifest of a prefix."""
    return sibling(prefix, ".json")


def read_manifest(prefix: str | Path) -> dict[str, Any] | None:
    """The manifest of a store; None for stores made by other programs."""
    try:
        manifest = json.loads(manifest_path(prefix).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    if not isinstance(manifest, dict) or "complete" not in manifest:
        return None
    return _in_present_words(manifest)


def _in_present_words(manifest: dict[str, Any]) -> dict[str, Any]:
    """A manifest with the kind `text` by its name, which was `spans` in earlier versions."""
    rule = manifest.get("rule")
    if isinstance(rule, dict) and rule.get("kind") == "spans":
        manifest["rule"] = {**rule, "kind": "text"}
    for source in manifest.get("sources", ()):
        if "spans" in source:
            source["text"] = source.pop("spans")
    return manifest


def previous_manifest(output: str | Path) -> dict[str, Any] | None:
    """The manifest of what was written to an output before; None if it is free.

    Raises:
      UserError: There are files at the output that `prepare` did not write.
    """
    manifest = read_manifest(output)
    foreign = [path for s in (".bin", ".idx", ".json") if (path := sibling(output, s)).exists()]
    if manifest is None and foreign:
        raise UserError(
            f"{' and '.join(path.name for path in foreign)} in {foreign[0].parent} come from "
            "elsewhere; choose another output."
        )
    return manifest


def write_manifest(prefix: str | Path, manifest: dict[str, Any]) -> None:
    """Writes a manifest at once."""
    text = json.dumps(manifest, ensure_ascii=False, indent=1)
    write_atomically(manifest_path(prefix), text + "\n")


def describe_vocabulary(vocabulary: Vocabulary) -> dict[str, Any]:
    """A vocabulary as manifests record it."""
    described = {
        "path": str(vocabulary.path),
        "sha256": vocabulary.fingerprint,
        "pieces": vocabulary.piece_count,
        "newline": vocabulary.newline,
    }
    if (frame := frame_ids(vocabulary)) != _FRAME:
        described["frame"] = frame
    return described


def frame_ids(vocabulary: Vocabulary) -> list[int]:
    """The ids of padding, bos and eos, which no text is made of, ascending."""
    ids = (vocabulary.pad_id, vocabulary.bos_id, vocabulary.eos_id)
    return sorted({i for i in ids if i is not None and i != vocabulary.unk_id})


_FRAME = [0, 1]
"""Those of `<pad>` and `</s>`, where a manifest does not name others."""


def describe_files(prefix: str | Path, data_sha256: str) -> dict[str, Any]:
    """Size and sha256 of each file of a store, by its name; that of `.bin` is known."""
    paths = [sibling(prefix, suffix) for suffix in (".bin", ".idx", ".counts.txt")]
    return {
        path.name: {
            "bytes": path.stat().st_size,
            "sha256": data_sha256 if path.suffix == ".bin" else sha256(path),
        }
        for path in paths
        if path.exists()
    }


def sources_of(store: TokenStore) -> list[dict[str, Any]]:
    """The sources of a store, in the order of their pairs.

    Returns:
      Of each at least `name`, `weight`, and the number of pairs of each kind that it has.

    Raises:
      UserError: Manifest and index disagree on the number of pairs.
    """
    manifest = read_manifest(store.prefix)
    counts = {kind: store.count(kind) for kind in get_args(Kind)}
    if manifest is None or "sources" not in manifest:
        return [{"name": store.prefix.name, "weight": None, **counts}]
    sources: list[dict[str, Any]] = manifest["sources"]
    for kind, count in counts.items():
        if sum(source.get(kind, 0) for source in sources) != count:
            raise UserError(
                f"{store.prefix}.idx has {count} {kind}, which is not what "
                f"{manifest_path(store.prefix)} says; prepare the store again."
            )
    return sources


def identity_of(store: TokenStore) -> dict[str, Any]:
    """What a store holds, whatever it is called and wherever it lies, ready for JSON.

    Returns:
      `bytes` of its two files, `weights` of its sources, and from its manifest, if it has one, the
      `sha256` of its files.
    """
    manifest = read_manifest(store.prefix) or {}
    return {
        "bytes": [sibling(store.prefix, suffix).stat().st_size for suffix in (".bin", ".idx")],
        "weights": [source.get("weight") for source in sources_of(store)],
        "sha256": sorted(
            file["sha256"]
            for name, file in manifest.get("files", {}).items()
            if name.endswith((".bin", ".idx"))
        ),
    }


def counts_text(vocabulary: Vocabulary, frequencies: np.ndarray) -> str:
    """Lines `piece id count`, most frequent first, ties by id; see `text_counts`."""
    counts = text_counts(frequencies[: vocabulary.piece_count], frame_ids(vocabulary))
    order = np.argsort(-counts, kind="stable")
    rows = zip(vocabulary.pieces(order.tolist()), order, counts[order], strict=True)
    return "".join(f"{piece} {i} {count}\n" for piece, i, count in rows)


def text_counts(counts: np.ndarray, frame: Iterable[int] = tuple(_FRAME)) -> np.ndarray:
    """Counts of ids, integers `[ids]`, without those of the frame, which no text is made of.

    Args:
      counts: of ids.
      frame: those of padding, bos and eos.
    """
    counts = counts.copy()
    counts[[i for i in frame if i < len(counts)]] = 0
    return counts


def check_vocabulary(prefix: str | Path, vocabulary: Vocabulary) -> None:
    """Checks that a store is finished, whole and holds ids of this vocabulary.

    A store without a manifest, made by another program, is taken as it is.

    Raises:
      UserError: The store is unfinished, or a file has another size than the manifest says.
      UserError: The store was made with another vocabulary.
      UserError: The store has newline tokens, and the vocabulary has none.
    """
    manifest = read_manifest(prefix)
    if manifest is None:
        return
    if not manifest["complete"]:
        raise UserError(f"token store {prefix} is unfinished; run `openba-prepare` again.")
    for name, file in manifest.get("files", {}).items():
        path = Path(prefix).with_name(name)
        if path.exists() and path.stat().st_size != file["bytes"]:
            raise UserError(
                f"{path} has {path.stat().st_size} bytes where {manifest_path(prefix)} says "
                f"{file['bytes']}; prepare the store again."
            )
    if manifest["vocabulary"] is None:
        return
    if manifest["vocabulary"]["sha256"] != vocabulary.fingerprint:
        raise UserError(
            f"token store {prefix} was made with {manifest['vocabulary']['path']}, whose pieces "
            f"are not those of {vocabulary.path}; prepare it again or give that vocabulary."
        )
    if manifest["vocabulary"].get("newline") and not vocabulary.newline:
        raise UserError(
            f"token store {prefix} has the newline as a token of its own, which {vocabulary.path} "
            f"does not know; prepare it again without --newline, or write "
            f'{{"newline": true}} to {settings_path(vocabulary.path)}.'
        )
    if vocabulary.newline and not manifest["vocabulary"].get("newline"):
        logging.warning(
            "Token store %s was made without the newline token that %s has; prepare it again to "
            "train on newlines.",
            prefix,
            vocabulary.path,
        )
