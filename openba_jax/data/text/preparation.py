"""Text to token stores: reads sources, encodes them in parallel, writes, and resumes after a kill.

What is written depends on sources, rule and vocabulary alone: not on the number of workers, nor on
how often the work was broken off.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from openba_jax.cli.progress import show_progress
from openba_jax.data.store.manifest import (
    counts_text,
    describe_files,
    manifest_path,
    previous_manifest,
    sibling,
    write_manifest,
)
from openba_jax.data.store.outputs import check_output
from openba_jax.data.store.token_store import store_dtype
from openba_jax.data.store.writer import TokenStoreWriter
from openba_jax.data.text.chunks import Chunk, TextSource, read_chunks
from openba_jax.data.text.encoding import SPECIAL_PLACES, Encoded, encode_chunks
from openba_jax.data.text.preparation_job import PreparationJob, same_job
from openba_jax.data.text.resumption import NUMBERS, Progress
from openba_jax.data.text.rules import RecordRule, TextGroups
from openba_jax.data.vocabularies.base import Vocabulary
from openba_jax.errors import UserError
from openba_jax.files import only_process, write_atomically
from openba_jax.language import told
from openba_jax.objectives.token_rows import Kind

_BAD_ITEMS_LISTED = 1000
_BYTES_PER_WORKER = 4 << 20


def prepare(
    sources: Sequence[TextSource],
    rule: RecordRule,
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
      workers: cores to keep busy, at most: by threads, or by processes where they are more than 4.
      strict: a line that cannot be used ends the run; else it is left out, counted and reported.
      progress: show how far it is.
      save_seconds: how often the progress is saved.

    Returns:
      The manifest. A store that is there already and was made from the same files by the same rule
      stays as it is.

    Raises:
      UserError: A file cannot be read or, if strict, a line cannot be used.
      UserError: The output cannot be written, or would replace an input, see `check_output`.
      UserError: The output holds another store, or another process is writing it.
      UserError: The sources give no pair.
      OSError: The disk is full; what was done is kept.
    """
    job = PreparationJob(sources, rule, vocabulary)
    output = check_output(output, [vocabulary.path, *itertools.chain(*job.files)])
    with only_process(output), job:
        return _prepare(job, rule, vocabulary, output, workers, strict, progress, save_seconds)


def _prepare(
    job: PreparationJob,
    rule: RecordRule,
    vocabulary: Vocabulary,
    output: Path,
    workers: int,
    strict: bool,
    progress: bool,
    save_seconds: float,
) -> dict[str, Any]:
    found = previous_manifest(output)
    state = Progress(output, vocabulary.token_count, len(job.files))
    resumed = False
    if found is not None and same_job(output, found, job.described(progress)):
        if found["complete"]:
            state.remove()  # It may have been killed before it came to this.
            TokenStoreWriter.remove_unfinished(output)
            return found
        resumed = state.load() and TokenStoreWriter.holds(output, state.mark)
    if not resumed:
        state.remove()  # Of another job, also unfinished, or somebody took files away.
        state = Progress(output, vocabulary.token_count, len(job.files))
        write_manifest(output, {"complete": False})
    workers = min(workers, job.bytes // _BYTES_PER_WORKER)
    writer = TokenStoreWriter(
        output, store_dtype(vocabulary.token_count), resume=state.mark if resumed else None
    )
    encoded = encode_chunks(
        read_chunks(job.files, rule.columns, state.position), vocabulary, rule, strict, workers
    )

    def save() -> None:
        if not state.saved:
            write_manifest(output, {"complete": False, **job.described()})
        state.save(writer.mark())

    try:
        with (
            contextlib.closing(encoded),
            show_progress(told("preparing"), job.bytes, "B", state.read, progress) as advance,
        ):
            saved, special_places = time.monotonic(), 0
            for chunk, result in encoded:
                for reason in result.bad:
                    logging.warning("Left out: %s", reason)
                for place in result.special_places[: max(SPECIAL_PLACES - special_places, 0)]:
                    logging.warning("A text spells out a special token, %s", place)
                special_places += len(result.special_places)
                state.bad += result.bad[: _BAD_ITEMS_LISTED - len(state.bad)]
                _add(writer, state, chunk, rule, result)
                state.position = chunk.after
                state.read += chunk.read
                advance(chunk.read)
                if time.monotonic() > saved + save_seconds and (job.known or save_seconds <= 0):
                    save()
                    saved = time.monotonic()
        if not state.total("pairs"):
            raise UserError(_nothing(state, rule))
        return _finish(writer, state, job.described(), rule.kind, vocabulary)
    except BaseException:
        # Saved progress is worth keeping, whatever it was that went wrong.
        if not state.saved:
            writer.discard()
            manifest_path(output).unlink(missing_ok=True)
        raise
    finally:
        writer.release()


def _add(
    writer: TokenStoreWriter, state: Progress, chunk: Chunk, rule: RecordRule, result: Encoded
) -> None:
    """Writes and counts what a chunk gave."""
    numbers = state.numbers[chunk.source]
    numbers["documents"] += result.documents
    numbers["empty_documents"] += result.empty
    numbers["too_long"] += result.too_long
    numbers["bad_items"] += len(result.bad)
    numbers["special_tokens"] += result.special
    if not isinstance(rule, TextGroups):
        writer.add_pairs(rule.kind, result.ids, result.lengths)
        state.count(chunk.source, result.ids, len(result.lengths) // 2)
        return
    whole = []
    ends = _batch_ends(state, rule, result.lengths, chunk.ends_source)
    for start, end in itertools.pairwise([0, *ends, None]):
        stream = np.concatenate([state.rest, result.ids[start:end]])
        cut = len(stream) // rule.group_size * rule.group_size
        whole.append(stream[:cut])
        state.rest = stream[cut:]
        if end is not None:
            numbers["dropped_tokens"] += len(state.rest)
            state.rest = state.rest[:0]
    groups = np.concatenate(whole).reshape(-1, rule.group_size)
    writer.add_groups(groups)
    state.count(chunk.source, groups.ravel(), len(groups))


def _batch_ends(
    state: Progress, rule: TextGroups, lengths: np.ndarray, ends_source: bool
) -> Sequence[int]:
    """After how many ids of a chunk a batch ends; counts its lines."""
    ends: list[int] = []
    if rule.batch_size:
        last = np.cumsum(lengths)[rule.batch_size - state.in_batch - 1 :: rule.batch_size]
        ends = last.tolist()
        state.in_batch = (state.in_batch + len(lengths)) % rule.batch_size
    if ends_source:
        ends.append(int(lengths.sum()))
        state.in_batch = 0
    return ends


def _finish(
    writer: TokenStoreWriter,
    state: Progress,
    job: dict[str, Any],
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
        for source, numbers in zip(job["sources"], state.numbers, strict=True)
    ]
    manifest = {
        "complete": True,
        **job,
        "sources": sources,
        "numbers": {name: state.total(name) for name in NUMBERS},
        "bad_items": state.bad,
        "files": describe_files(state.output, writer.data_sha256),
    }
    write_manifest(state.output, manifest)
    state.remove()
    writer.discard()
    return manifest


def _nothing(state: Progress, rule: RecordRule) -> str:
    """Why there is no pair."""
    documents, bad = state.total("documents"), state.total("bad_items")
    reason = f" and {bad} that cannot be used, the first: {state.bad[0]}" if bad else ""
    if isinstance(rule, TextGroups):
        return (
            f"{documents} documents give no group of {rule.group_size} tokens, "
            f"{state.total('dropped_tokens')} tokens are left over{reason}; give more text, a "
            "larger batch_size or a smaller group_size."
        )
    return (
        f"{documents} records give no pair with a source of at most {rule.max_length} "
        f"tokens{reason}; give more or a larger max_length."
    )
