"""Text to token stores: reads sources, encodes them in parallel, writes, and resumes after a kill.

What is written depends on sources, rule and vocabulary alone: not on the number of workers, nor on
how often the work was broken off.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging
from tqdm import tqdm

from openba_jax.data.chunks import Source, read_chunks
from openba_jax.data.encoding import Encoded, encode_chunks
from openba_jax.data.inputs import expand, input_sha256, input_size
from openba_jax.data.manifest import (
    counts_text,
    describe_files,
    describe_vocabulary,
    manifest_path,
    previous_manifest,
    sibling,
    write_manifest,
)
from openba_jax.data.resumption import NUMBERS, Progress
from openba_jax.data.rules import Rule, Spans, describe
from openba_jax.data.token_store import store_dtype
from openba_jax.data.token_store_writer import TokenStoreWriter
from openba_jax.data.vocabulary import Vocabulary
from openba_jax.errors import UserError
from openba_jax.files import only_process, write_atomically
from openba_jax.objectives.rows import Kind

_BAD_ITEMS_LISTED = 1000
_BYTES_PER_WORKER = 4 << 20


def prepare(
    sources: Sequence[Source],
    rule: Rule,
    vocabulary: Vocabulary,
    output: str | Path,
    *,
    workers: int = 1,
    strict: bool = False,
    progress: bool = False,
    save_seconds: float = 10.0,
) -> dict[str, Any]:
    """Makes a token store of text.

    Writes `OUTPUT.bin`, `OUTPUT.idx`, the manifest `OUTPUT.json` and `OUTPUT.counts.txt`: a line
    `piece id count` for every piece, most frequent first. A run that was killed goes on where it
    last saved its progress; the files are the same as if it had not been.

    Args:
      sources: text, in this order.
      rule: what becomes of a record.
      vocabulary: encodes.
      output: prefix of the files written.
      workers: threads that encode, or processes where they are more than four; at most.
      strict: a line that cannot be used ends the run; else it is left out, counted and reported.
      progress: show bars on a terminal.
      save_seconds: how often the progress is saved.

    Returns:
      The manifest. A store that is there already and was made from the same files by the same rule
      stays as it is.

    Raises:
      UserError: a file or record is bad, `output` holds something else, another process is
        writing it, or there is no pair.
      OSError: the disk is full; what was done is kept.
    """
    output = Path(output)
    with only_process(output):
        return _prepare(sources, rule, vocabulary, output, workers, strict, progress, save_seconds)


def _prepare(
    sources: Sequence[Source],
    rule: Rule,
    vocabulary: Vocabulary,
    output: Path,
    workers: int,
    strict: bool,
    progress: bool,
    save_seconds: float,
) -> dict[str, Any]:
    if not any(source.files for source in sources):
        raise UserError("no input file is given; name at least one.")
    weights = [source.weight for source in sources]
    if any(weight is not None and not 0 < weight < float("inf") for weight in weights):
        raise UserError(f"sources have weights {weights}; they must be above 0.")
    files = [expand(source.files) for source in sources]
    work: dict[str, Any] = {
        "rule": describe(rule),
        "vocabulary": describe_vocabulary(vocabulary),
        "sources": [
            {"name": source.name, "weight": source.weight, "inputs": inputs}
            for source, inputs in zip(sources, _fingerprints(files, progress), strict=True)
        ],
    }
    state = Progress(output, vocabulary.token_count, len(sources))
    found = _previous(output, work)
    if found is not None and found["complete"]:
        return found
    resumed = found is not None and state.load()
    if not resumed:
        state.remove()  # Of other work, also unfinished.
        write_manifest(output, {"complete": False, **work})
    total = sum(file["bytes"] for source in work["sources"] for file in source["inputs"])
    workers = min(workers, total // _BYTES_PER_WORKER)
    writer = TokenStoreWriter(
        output, store_dtype(vocabulary.token_count), resume=state.mark if resumed else None
    )
    encoded = encode_chunks(
        read_chunks(files, rule.columns, _batch_size(rule), state.position),
        vocabulary,
        rule,
        strict,
        workers,
    )
    try:
        with contextlib.closing(encoded), _bar(total, state.read, progress) as bar:
            saved = time.monotonic()
            for chunk, result in encoded:
                for reason in result.bad:
                    logging.warning("Left out: %s", reason)
                state.bad += result.bad[: _BAD_ITEMS_LISTED - len(state.bad)]
                _add(writer, state, chunk.source, rule, result)
                state.position = chunk.after
                state.read += chunk.read
                bar.update(chunk.read)
                if time.monotonic() > saved + save_seconds:
                    state.save(writer.mark())
                    saved = time.monotonic()
        if not state.total("pairs"):
            raise UserError(_nothing(state, rule))
        return _finish(writer, state, work, rule.kind, vocabulary)
    except BaseException:
        # Saved progress is worth keeping, whatever it was that went wrong.
        if not state.saved:
            writer.discard()
            manifest_path(output).unlink(missing_ok=True)
        raise
    finally:
        writer.release()


def _add(
    writer: TokenStoreWriter, state: Progress, source: int, rule: Rule, result: Encoded
) -> None:
    """Writes and counts what a chunk gave."""
    numbers = state.numbers[source]
    numbers["documents"] += result.documents
    numbers["empty_documents"] += result.empty
    numbers["too_long"] += result.too_long
    numbers["bad_items"] += len(result.bad)
    numbers["special_tokens"] += result.special
    if not isinstance(rule, Spans):
        writer.add_pairs(rule.kind, result.ids, result.lengths)
        state.count(source, result.ids, len(result.lengths) // 2)
        return
    whole = []
    bounds = [0, *result.batch_ends, len(result.ids)]
    for i, (start, end) in enumerate(itertools.pairwise(bounds)):
        stream = np.concatenate([state.rest, result.ids[start:end]])
        cut = len(stream) // rule.group_size * rule.group_size
        whole.append(stream[:cut])
        state.rest = stream[cut:]
        if i < len(result.batch_ends):
            numbers["dropped_tokens"] += len(state.rest)
            state.rest = state.rest[:0]
    groups = np.concatenate(whole).reshape(-1, rule.group_size)
    writer.add_groups(groups)
    state.count(source, groups.ravel(), len(groups))


def _finish(
    writer: TokenStoreWriter,
    state: Progress,
    work: dict[str, Any],
    kind: Kind,
    vocabulary: Vocabulary,
) -> dict[str, Any]:
    """Gives the files their names and says so in the manifest."""
    writer.finish()
    write_atomically(
        sibling(state.output, ".counts.txt"), counts_text(vocabulary, state.frequencies)
    )
    sources = [
        {**source, kind: numbers["pairs"], "numbers": numbers}
        for source, numbers in zip(work["sources"], state.numbers, strict=True)
    ]
    manifest = {
        "complete": True,
        **work,
        "sources": sources,
        "numbers": {name: state.total(name) for name in NUMBERS},
        "bad_items": state.bad,
        "files": describe_files(state.output),
    }
    write_manifest(state.output, manifest)
    state.remove()
    writer.discard()
    return manifest


def _batch_size(rule: Rule) -> int | None:
    """Lines of a batch; None where there are none."""
    return rule.batch_size or None if isinstance(rule, Spans) else None


def _previous(output: Path, work: dict[str, Any]) -> dict[str, Any] | None:
    """The manifest of the same work done or begun before; None if it is to be done from the start.

    Raises:
      UserError: there is something else.
    """
    found = previous_manifest(output)
    if found is None:
        return None
    same = _identity(found) == _identity(work)
    if not found["complete"]:
        return found if same else None
    if not same:
        raise UserError(
            f"{manifest_path(output)} says that this output was made from other files or by "
            "another rule; choose another output or remove its files."
        )
    whole = all(
        (path := output.with_name(name)).is_file() and path.stat().st_size == file["bytes"]
        for name, file in found["files"].items()
    )
    return found if whole else None


def _identity(manifest: dict[str, Any]) -> Any:
    """What of a manifest says which work it is."""
    sources = manifest.get("sources", ())
    vocabulary = manifest.get("vocabulary") or {}
    return (
        manifest.get("rule"),
        {name: vocabulary.get(name) for name in ("sha256", "newline")},
        [{name: source.get(name) for name in ("name", "weight", "inputs")} for source in sources],
    )


def _fingerprints(files: Sequence[Sequence[str]], progress: bool) -> list[list[dict[str, Any]]]:
    """Path, size and sha256 of each file of each source."""
    sizes = [[input_size(path) for path in paths] for paths in files]
    with _bar(sum(map(sum, sizes)), 0, progress, "checking") as bar:
        return [
            [
                {"path": path, "bytes": size, "sha256": input_sha256(path, bar.update)}
                for path, size in zip(paths, of_source, strict=True)
            ]
            for paths, of_source in zip(files, sizes, strict=True)
        ]


@contextlib.contextmanager
def _bar(total: int, initial: int, progress: bool, what: str = "preparing") -> Iterator[Any]:
    """A bar with rate and time left; without a terminal `disable=None` shows none."""
    disable = None if progress else True
    with tqdm(
        total=total, initial=initial, unit="B", unit_scale=True, desc=what, disable=disable
    ) as bar:
        yield bar


def _nothing(state: Progress, rule: Rule) -> str:
    """Why there is no pair."""
    documents, bad = state.total("documents"), state.total("bad_items")
    reason = f" and {bad} that cannot be used, the first: {state.bad[0]}" if bad else ""
    if isinstance(rule, Spans):
        return (
            f"{documents} documents give no group of {rule.group_size} tokens, "
            f"{state.total('dropped_tokens')} tokens are left over{reason}; give more text, a "
            "larger batch_size or a smaller group_size."
        )
    return (
        f"{documents} records give no pair with a source of at most {rule.max_length} "
        f"tokens{reason}; give more or a larger max_length."
    )
