"""From chunks of text to ids: what `prepare`'s workers do, and how they are kept busy.

Few workers are threads: sentencepiece, which takes nine tenths of the time, lets others run. There
are two more than asked for, so that no core is idle while some wait for their turn in Python. With
more workers that would be the limit, so that they are processes.
"""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import itertools
import multiprocessing
import os
import re
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np

from openba_jax.data.text.chunks import Chunk
from openba_jax.data.text.documents import MissingColumnError, items_of, parse, place
from openba_jax.data.text.rules import PairRule, RecordRule, TextGroups
from openba_jax.data.vocabularies.base import Vocabulary
from openba_jax.data.vocabularies.registry import open_vocabulary
from openba_jax.errors import UserError

_MOST_THREADS = 4
_MORE_THREADS = 2
SPECIAL_PLACES = 20
"""How many places with special tokens a chunk names, about."""
_PART_CHARACTERS = 1 << 20


@dataclasses.dataclass(frozen=True)
class Encoded:
    """What a chunk gives.

    Attributes:
      ids: int32 `[tokens]`; of pairs: sources and targets one after another; of text: documents,
        each with its eos, and its bos if the vocabulary adds one.
      lengths: integers; of pairs `[2 pairs]`: of source and target by turns; of text `[lines]`: of
        each line that is not blank, 0 where there is no document.
      documents: records read.
      empty: of them, those that give nothing.
      too_long: pairs left out for the length of their source.
      special: tokens that a text spells out, such as `<extra_id_0>`.
      special_places: `PLACE: TOKEN`, for the first of them.
      bad: what is wrong with each item that could not be used.
    """

    ids: np.ndarray
    lengths: np.ndarray
    documents: int
    empty: int
    too_long: int
    special: int
    special_places: Sequence[str]
    bad: Sequence[str]


class Encoder:
    """Encodes chunks by a rule."""

    def __init__(self, vocabulary: Vocabulary, rule: RecordRule, strict: bool) -> None:
        """Takes what does not change.

        Args:
          vocabulary: encodes.
          rule: says what becomes of a record.
          strict: an item that cannot be used is an error.
        """
        self._vocabulary = vocabulary
        self._rule = rule
        self._strict = strict
        begins = [vocabulary.bos_id] if vocabulary.adds_bos else []
        self._begin, self._end = np.array(begins, np.int32), np.array([vocabulary.eos_id], np.int32)
        self._special_ids = np.array(
            [
                i
                for token, i in vocabulary.special_tokens().items()
                if token != "\n" and i != vocabulary.unk_id
            ]
        )

    def __call__(self, chunk: Chunk) -> Encoded:
        """The ids of a chunk.

        Raises:
          UserError: The first record of a file lacks a column.
          UserError: An item cannot be used, and the encoder is strict.
        """
        texts: list[Sequence[str]] = []
        lines: list[int] = []  # Which line, blank ones not counted, each record stands in.
        line = 0
        bad: list[str] = []
        special: list[str] = []
        for number, item in enumerate(items_of(chunk.block), chunk.start + 1):
            if isinstance(item, bytes) and (not item or item.isspace()):
                continue
            line += 1
            try:
                record = parse(chunk.path, number, item, self._rule.text_column)
                if record is not None:
                    texts.append(self._rule.texts(record, place(chunk.path, number)))
                    lines.append(line - 1)
                    if len(special) < SPECIAL_PLACES:
                        special += self._special_places(chunk, number, texts[-1])
            except UserError as error:
                # A file whose first record lacks a column is not damaged but another one.
                if self._strict or (number == 1 and isinstance(error, MissingColumnError)):
                    raise
                bad.append(str(error))
        ids = encode_texts(self._vocabulary, list(itertools.chain.from_iterable(texts)))
        if not isinstance(self._rule, TextGroups):
            return self._pairs(self._rule, ids, texts, special, bad)
        counts = np.fromiter(map(len, ids), np.int64, len(ids))
        lengths = np.zeros(line, np.int64)
        frame = len(self._begin) + len(self._end)
        lengths[lines] = counts + frame * (counts > 0)
        stream = _joined(
            [part for each in ids if len(each) for part in (self._begin, each, self._end)]
        )
        empty = int((counts == 0).sum())
        spelt_out = self._special(stream) - frame * (len(ids) - empty)
        return Encoded(stream, lengths, len(ids), empty, 0, spelt_out, special, bad)

    def _pairs(
        self,
        rule: PairRule,
        ids: Sequence[np.ndarray],
        texts: Sequence[Sequence[str]],
        special: Sequence[str],
        bad: Sequence[str],
    ) -> Encoded:
        """The pairs that records give: `ids` of all their texts, one after another."""
        rest = iter(ids)
        of_records = [
            rule.pairs(list(itertools.islice(rest, len(each))), self._vocabulary.eos_id)
            for each in texts
        ]
        pairs = [pair for each in of_records for pair in each]
        sequences = [ids for pair in pairs if len(pair[0]) <= rule.max_length for ids in pair]
        return Encoded(
            _joined(sequences),
            np.fromiter(map(len, sequences), np.int64, len(sequences)),
            len(texts),
            sum(not each for each in of_records),
            len(pairs) - len(sequences) // 2,
            self._special(_joined(ids)),
            special,
            bad,
        )

    def _special_places(self, chunk: Chunk, number: int, texts: Sequence[str]) -> list[str]:
        """Which special tokens the texts of a record spell out, each once."""
        found = dict.fromkeys(
            token for text in texts for token in self._vocabulary.special_in(text)
        )
        return [f"{place(chunk.path, number)}: {token}" for token in found]

    def _special(self, ids: np.ndarray) -> int:
        """How many special tokens there are among ids, newlines aside."""
        return int(np.isin(ids, self._special_ids).sum())


def encode_chunks(
    chunks: Iterator[Chunk], vocabulary: Vocabulary, rule: RecordRule, strict: bool, workers: int
) -> Generator[tuple[Chunk, Encoded]]:
    """Encodes chunks in order, each with what became of it.

    Args:
      chunks: read as they are needed.
      vocabulary: encodes.
      rule: says what becomes of a record.
      strict: an item that cannot be used is an error.
      workers: cores to keep busy, by threads, or processes where they are many; 1 for less.

    Raises:
      UserError: A chunk cannot be read or encoded, see `Encoder`.
      UserError: A worker process died.
    """
    workers = max(1, workers)
    executor, work = _executor(vocabulary, rule, strict, workers)
    pending: collections.deque[tuple[Chunk, concurrent.futures.Future[Encoded]]]
    pending = collections.deque()
    try:
        for chunk in chunks:
            future = executor.submit(work, chunk)
            pending.append((dataclasses.replace(chunk, block=b""), future))
            if len(pending) > 2 * workers + _MORE_THREADS:
                done, future = pending.popleft()
                yield done, future.result()
        while pending:
            done, future = pending.popleft()
            yield done, future.result()
    except BrokenProcessPool as error:
        raise UserError(
            "a worker process ended before its time, perhaps for want of memory; run the same "
            "command again to go on, with fewer workers."
        ) from error
    finally:
        executor.shutdown(cancel_futures=True)


def _executor(
    vocabulary: Vocabulary, rule: RecordRule, strict: bool, workers: int
) -> tuple[concurrent.futures.Executor, Callable[[Chunk], Encoded]]:
    """Workers, and what they are to do with a chunk."""
    if workers <= _MOST_THREADS:
        encoder = Encoder(vocabulary, rule, strict)
        threads = workers + _MORE_THREADS if workers > 1 else 1
        return concurrent.futures.ThreadPoolExecutor(threads), encoder
    executor = concurrent.futures.ProcessPoolExecutor(
        workers,
        multiprocessing.get_context("spawn"),  # A fork of a process with threads can hang.
        _start_worker,
        (str(vocabulary.path), vocabulary.newline, rule, strict),
    )
    return executor, _work


_encoder: Encoder


def _start_worker(vocabulary: str | Path, newline: bool, rule: RecordRule, strict: bool) -> None:
    """Makes a process ready to work, and lets it end with the process that started it."""
    global _encoder
    _encoder = Encoder(open_vocabulary(vocabulary, newline), rule, strict)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work(chunk: Chunk) -> Encoded:
    return _encoder(chunk)


def encode_texts(vocabulary: Vocabulary, texts: Sequence[str]) -> list[np.ndarray]:
    """Encodes texts for training; those of more than a million characters in parts, to save memory.

    They are cut between two words, where the tokenizer does not look across; where it might, and
    where there are no words, they are not cut. So the parts have the ids of the whole, but for one
    thing: a unigram model adds up the scores of all pieces from the beginning of a text, in single
    precision, and after millions of characters rounds them until it picks other pieces now and
    then (one of 100,000 in texts of 3 million characters). Parts do not get that far.

    Args:
      vocabulary: encodes; special tokens that a text spells out become those tokens.
      texts: any texts.

    Returns:
      int32 arrays.

    Raises:
      UserError: A text holds half of a surrogate pair.
    """
    if max(map(len, texts), default=0) <= _PART_CHARACTERS:
        return vocabulary.encode_arrays(texts, parse_special=True, threads=1)
    parts = [list(_parts(text, vocabulary.separators)) for text in texts]
    pieces = [part for each in parts for part in each]
    encoded = iter(vocabulary.encode_arrays(pieces, parse_special=True, threads=1))
    return [
        next(encoded) if len(part) == 1 else np.concatenate([next(encoded) for _ in part])
        for part in parts
    ]


def _parts(text: str, separators: str) -> Iterator[str]:
    """Cuts a text between words, and leaves the character between them out."""
    start = 0
    between_words = re.compile(rf"(?<=\w)[{separators}](?=\w)") if separators else None
    while between_words and len(text) - start > _PART_CHARACTERS:
        found = between_words.search(text, start + _PART_CHARACTERS)
        if found is None:
            break
        yield text[start : found.start()]
        start = found.end()
    yield text[start:]


def _joined(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """One int32 array of several, or of none."""
    return np.concatenate(arrays) if arrays else np.zeros(0, np.int32)
