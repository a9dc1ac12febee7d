"""Merging, splitting and verifying finished token stores."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np

from openba_jax.data.store.manifest import (
    describe_files,
    manifest_path,
    previous_manifest,
    read_manifest,
    sibling,
    sources_of,
    text_counts,
    write_manifest,
)
from openba_jax.data.store.outputs import check_output
from openba_jax.data.store.token_store import TokenStore, open_stores
from openba_jax.data.store.writer import TokenStoreWriter
from openba_jax.errors import UserError
from openba_jax.files import sha256, write_atomically
from openba_jax.objectives.token_rows import Kind

SPLIT_SEED = 423
"""The original's seed."""

_KINDS: tuple[Kind, ...] = get_args(Kind)
_PAIRS_AT_ONCE = 1 << 12
_IDS_AT_ONCE = 1 << 22


def merge_stores(prefixes: Sequence[str | Path], output: str | Path) -> dict[str, Any]:
    """Writes one store with the pairs of several, in the order given.

    Args:
      prefixes: stores, also of the original's.
      output: prefix of the files written.

    Returns:
      The manifest; its sources are those of all stores.

    Raises:
      UserError: A store is missing or damaged.
      UserError: The stores differ in element type, vocabulary, or the newline token.
      UserError: The output cannot be written, or something else is in its place.
    """
    output = check_output(output)
    stores = open_stores(prefixes).stores
    for store in stores:
        store.check_index()
    known = {store.prefix: m for store in stores if (m := read_manifest(store.prefix)) is not None}
    vocabularies = [m["vocabulary"] for m in known.values() if m["vocabulary"] is not None]
    for vocabulary in vocabularies:
        if vocabulary["sha256"] != vocabularies[0]["sha256"]:
            raise UserError(
                f"the stores were made with {vocabularies[0]['path']} and {vocabulary['path']}, "
                "which differ; prepare them with one vocabulary."
            )
        if vocabulary.get("newline", False) != vocabularies[0].get("newline", False):
            raise UserError(
                "some of the stores have the newline as a token and others have not; prepare all "
                "of them with --newline, or none."
            )
    manifest = {
        "rule": {"kind": "merge", "stores": [str(prefix) for prefix in prefixes]},
        # What a store of unknown origin holds cannot be vouched for.
        "vocabulary": vocabularies[0] if len(vocabularies) == len(stores) else None,
        "sources": [source for store in stores for source in sources_of(store)],
    }
    with _written(output, manifest):
        with TokenStoreWriter(output, stores[0].dtype) as writer:
            for store in stores:
                writer.add_store(store)
        return _finish(writer, output, manifest, _pieces(store.prefix for store in stores))


def split_store(
    prefix: str | Path, parts: int, output: str | Path, seed: int = SPLIT_SEED
) -> list[dict[str, Any]]:
    """Deals the pairs of a store out to several, by chance, as the original does.

    Each pair goes where `numpy.random.RandomState(seed).choice(parts)`, called once for each pair,
    groups of text first, sends it.

    Args:
      prefix: the store.
      parts: how many.
      output: the parts are called `OUTPUT-0`, `OUTPUT-1` and so on.
      seed: of the draws.

    Returns:
      The manifests.

    Raises:
      UserError: The store is missing or damaged.
      UserError: A part cannot be written, or something else is in its place.
    """
    if parts < 2:
        raise UserError(f"a store cannot be split in {parts} parts; the least is 2.")
    outputs = [check_output(f"{output}-{part}") for part in range(parts)]
    store = TokenStore(prefix)
    store.check_index()
    rng = np.random.RandomState(seed)
    drawn = {kind: rng.choice(parts, store.count(kind)) for kind in _KINDS}
    found = read_manifest(prefix)
    names = _pieces([store.prefix])
    manifests = []
    for part, of_part in enumerate(outputs):
        chosen = {kind: np.flatnonzero(drawn[kind] == part) for kind in _KINDS}
        manifest = {
            "rule": {
                "kind": "split",
                "store": str(prefix),
                "parts": parts,
                "part": part,
                "seed": seed,
            },
            "vocabulary": found and found["vocabulary"],
            "sources": _sources_of_part(store, chosen),
        }
        done = read_manifest(of_part)
        if done is not None and done["complete"] and manifest.items() <= done.items():
            manifests.append(done)  # By a run that was killed later.
            continue
        with _written(of_part, manifest):
            with TokenStoreWriter(of_part, store.dtype) as writer:
                for kind, pairs in chosen.items():
                    for i in range(0, len(pairs), _PAIRS_AT_ONCE):
                        writer.add_pairs(kind, *store.read_pairs(kind, pairs[i:][:_PAIRS_AT_ONCE]))
            manifests.append(_finish(writer, of_part, manifest, names))
    return manifests


def verify_store(prefix: str | Path) -> dict[str, Any]:
    """Reads a store from end to end.

    Returns:
      `groups`, `instructions`, `tokens`, and `checksums`: of how many files they were compared.

    Raises:
      UserError: Index and data do not belong together.
      UserError: The store is unfinished, or a file is not what the manifest says.
    """
    store = TokenStore(prefix)
    manifest = read_manifest(prefix)
    if manifest is not None and not manifest["complete"]:
        raise UserError(f"token store {prefix} is unfinished; run the same command again.")
    store.check_index()
    sources_of(store)
    files = {} if manifest is None else manifest["files"]
    for name, file in files.items():
        path = Path(prefix).with_name(name)
        if not path.is_file() or sha256(path) != file["sha256"]:
            raise UserError(
                f"{path} is not the file that {manifest_path(prefix)} describes; prepare the store "
                "again."
            )
    tokens = sum(store.tokens(kind) for kind in _KINDS)
    counts = {"groups": store.count("text"), "instructions": store.count("instructions")}
    return {**counts, "tokens": tokens, "checksums": len(files)}


@contextlib.contextmanager
def _written(output: str | Path, manifest: Mapping[str, Any]) -> Iterator[None]:
    """Says, until the end, that what is there is not finished; leaves nothing after an error."""
    found = previous_manifest(output)
    if found is not None and found["complete"]:
        raise UserError(f"there is a token store {output} already; choose another output.")
    write_manifest(output, {"complete": False, **manifest})
    try:
        yield
    except BaseException:
        manifest_path(output).unlink(missing_ok=True)
        raise


def _finish(
    writer: TokenStoreWriter,
    output: str | Path,
    manifest: Mapping[str, Any],
    names: Mapping[int, str],
) -> dict[str, Any]:
    """Counts what was written, and describes it."""
    store = TokenStore(output)
    if names:
        counts = np.zeros(max(names) + 1, np.int64)
        for ids in store.blocks(_IDS_AT_ONCE):
            present = np.bincount(ids)
            counts[: len(present)] += present[: len(counts)]
        frame = (manifest.get("vocabulary") or {}).get("frame")
        counts = text_counts(counts) if frame is None else text_counts(counts, frame)
        order = np.argsort(-counts, kind="stable")
        lines = [f"{names[i]} {i} {counts[i]}\n" for i in map(int, order) if i in names]
        write_atomically(sibling(output, ".counts.txt"), "".join(lines))
    finished = {
        "complete": True,
        **manifest,
        "numbers": {
            "pairs": sum(store.count(kind) for kind in _KINDS),
            "tokens": sum(store.tokens(kind) for kind in _KINDS),
        },
        "files": describe_files(output, writer.data_sha256),
    }
    write_manifest(output, finished)
    return finished


def _pieces(prefixes: Iterator[Path] | Sequence[Path]) -> dict[int, str]:
    """The piece of each id, from the counts of the first store if all have some."""
    paths = [sibling(prefix, ".counts.txt") for prefix in prefixes]
    if not all(path.exists() for path in paths):
        return {}
    lines = paths[0].read_text(encoding="utf-8").split("\n")
    return {int(i): piece for piece, i, _ in (line.rsplit(" ", 2) for line in lines if line)}


def _sources_of_part(store: TokenStore, chosen: Mapping[Kind, np.ndarray]) -> list[dict[str, Any]]:
    """The sources of a store with the pairs that are chosen: they keep their order."""
    sources = sources_of(store)
    parts = [{k: v for k, v in source.items() if k != "numbers"} for source in sources]
    for kind in _KINDS:
        ends = np.cumsum([source.get(kind, 0) for source in sources])
        counts = np.diff(np.searchsorted(chosen[kind], ends), prepend=0)
        for part, count in zip(parts, counts, strict=True):
            part[kind] = int(count)
    return parts
