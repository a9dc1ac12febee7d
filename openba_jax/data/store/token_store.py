"""The memory-mapped token store: `PREFIX.bin` and `PREFIX.idx` of the original, byte for byte.

`.bin` holds the ids of all sequences one after another. Sequence 2p is the source and 2p+1 the
target of pair p; a pair is a group of text for denoising (`"text"`, empty target) or an
instruction (`"instructions"`). `.idx`, little endian and unaligned:

    0   9 bytes   magic            26  u64       number of groups, A
    9   u64       version, 1       34  u64       number of instructions, B
    17  u8        type code        42  i32 x N   lengths
    18  u64       sequences, N     ..  i64 x N   offsets in .bin, i64 x A and i64 x B pair numbers
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from openba_jax.errors import UserError
from openba_jax.objectives.token_rows import Kind, Side, TokenRows

HEADER = struct.Struct("<9sQBQQQ")
MAGIC = b"MMIDIDX\x00\x00"
VERSION = 1
_TYPES = {1: "<u1", 2: "<i1", 3: "<i2", 4: "<i4", 5: "<i8", 8: "<u2"}
CODES = {name: code for code, name in _TYPES.items()}
PAIRS_AT_ONCE = 1 << 16


def store_dtype(token_count: int) -> np.dtype:
    """uint16 for vocabularies below 65,500, else int32."""
    return np.dtype("<u2") if token_count < 65_500 else np.dtype("<i4")


class TokenStore:
    """Random access to the pairs of one store; nothing is read before it is asked for."""

    def __init__(self, prefix: str | Path) -> None:
        """Maps `PREFIX.bin` and `PREFIX.idx`.

        Raises:
          UserError: A file is missing or damaged, or the two do not belong together.
        """
        self.prefix = Path(prefix)
        index_path, data_path = paths_of(self.prefix)
        for path in (index_path, data_path):
            if not path.is_file():
                raise UserError(
                    f"token store {prefix} lacks {path.name}; make one by `openba-prepare tokens` "
                    "and give its path without .bin or .idx."
                )
        with index_path.open("rb") as file:
            header = file.read(HEADER.size)
        if len(header) < HEADER.size or not header.startswith(MAGIC):
            raise UserError(f"{index_path} is not the index of a token store.")
        _, version, code, sequences, groups, instructions = HEADER.unpack(header)
        if version != VERSION or code not in _TYPES or sequences != 2 * (groups + instructions):
            raise UserError(
                f"{index_path} is damaged or of another kind: version {version}, type code {code}, "
                f"{sequences} sequences for {groups} groups and {instructions} instructions."
            )
        bounds = np.cumsum(
            [HEADER.size, 4 * sequences, 8 * sequences, 8 * groups, 8 * instructions]
        )
        if index_path.stat().st_size != bounds[-1]:
            raise UserError(
                f"{index_path} has {index_path.stat().st_size} bytes where its header promises "
                f"{bounds[-1]}; prepare the store again."
            )
        self.dtype = np.dtype(_TYPES[code])
        index = _map(index_path, np.dtype(np.uint8))
        self._lengths = index[bounds[0] : bounds[1]].view("<i4")
        self._offsets = index[bounds[1] : bounds[2]].view("<i8")
        self._pairs: dict[Kind, np.ndarray] = {
            "text": index[bounds[2] : bounds[3]].view("<i8"),
            "instructions": index[bounds[3] : bounds[4]].view("<i8"),
        }
        expected = 0
        if sequences:
            expected = int(self._offsets[-1]) + int(self._lengths[-1]) * self.dtype.itemsize
        if data_path.stat().st_size != expected:
            raise UserError(
                f"{data_path} has {data_path.stat().st_size} bytes where {index_path.name} "
                f"promises {expected}; prepare the store again."
            )
        self._data = _map(data_path, self.dtype)

    def count(self, kind: Kind) -> int:
        """How many pairs of a kind there are."""
        return len(self._pairs[kind])

    def tokens(self, kind: Kind) -> int:
        """How many tokens the pairs of a kind hold, sources and targets."""
        sequences = self._sequences(kind)
        lengths = self._lengths
        return int(
            lengths[sequences].sum(dtype=np.int64) + lengths[sequences + 1].sum(dtype=np.int64)
        )

    def longest(self, kind: Kind, side: Side = "source") -> int:
        """The length of the longest source or target of a kind; 0 if there is none."""
        return int(self.lengths(kind, side).max(initial=0))

    def lengths(self, kind: Kind, side: Side = "source") -> np.ndarray:
        """The length of every source or target of a kind: int32 `[count]`."""
        return self._lengths[self._sequences(kind) + (side == "target")]

    def source(self, kind: Kind, j: int) -> np.ndarray:
        """The source of the j-th pair of a kind: int32 `[length]`."""
        return self.read(kind, np.array([j]), "source").ids[0]

    def target(self, kind: Kind, j: int) -> np.ndarray:
        """The target of the j-th pair of a kind: int32 `[length]`; empty for groups of text."""
        return self.read(kind, np.array([j]), "target").ids[0]

    def read(
        self, kind: Kind, indices: np.ndarray, side: Side = "source", longest: int | None = None
    ) -> TokenRows:
        """Reads many sequences at once.

        Args:
          kind: which pairs.
          indices: numbers within the kind, integers `[n]`.
          side: source or target.
          longest: read no more than so many ids of each.

        Raises:
          UserError: The index points outside `.bin`.
        """
        sequences = self._sequences(kind, indices) + (side == "target")
        lengths = self._lengths[sequences].astype(np.int64)
        starts = self._offsets[sequences] // self.dtype.itemsize
        ends = starts + lengths
        if len(sequences) and (
            min(starts.min(), lengths.min()) < 0 or ends.max() > len(self._data)
        ):
            raise UserError(f"{self.prefix}.idx is damaged: it points outside {self.prefix}.bin.")
        if longest is not None:
            lengths = np.minimum(lengths, longest)
        columns = np.arange(int(lengths.max(initial=0)))
        valid = columns < lengths[:, None]
        ids = np.zeros(valid.shape, np.int32)
        ids[valid] = self._data[(starts[:, None] + columns)[valid]]
        return TokenRows(ids, lengths)

    def read_pairs(self, kind: Kind, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pairs as `TokenStoreWriter.add_pairs` takes them.

        Args:
          kind: which pairs.
          indices: numbers within the kind, integers `[n]`.

        Returns:
          Ids `[tokens]`, sources and targets one after another, and lengths int64 `[2 n]`.
        """
        sequences = (self._sequences(kind, indices)[:, None] + [0, 1]).ravel()
        lengths = self._lengths[sequences].astype(np.int64)
        starts = self._offsets[sequences] // self.dtype.itemsize
        shifts = starts - (np.cumsum(lengths) - lengths)
        return self._data[np.repeat(shifts, lengths) + np.arange(lengths.sum())], lengths

    def _sequences(self, kind: Kind, indices: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Where the sources of pairs stand among all sequences; each target follows its source.

        Raises:
          UserError: The index names a pair that is not there.
        """
        pairs = self._pairs[kind][indices]
        if len(pairs) and not 0 <= pairs.min() <= pairs.max() < len(self._lengths) // 2:
            raise UserError(f"{self.prefix}.idx is damaged: a pair number is out of range.")
        return 2 * pairs

    def blocks(self, size: int) -> Iterator[np.ndarray]:
        """All ids in the order of `.bin`, so many at once."""
        for i in range(0, len(self._data), size):
            yield self._data[i : i + size]

    def check_index(self) -> None:
        """Checks every entry of the index.

        Raises:
          UserError: Sequences do not follow one another, or pairs are missing or named twice.
        """
        end = 0
        for i in range(0, len(self._lengths), PAIRS_AT_ONCE):
            lengths = self._lengths[i : i + PAIRS_AT_ONCE].astype(np.int64) * self.dtype.itemsize
            ends = end + np.cumsum(lengths)
            gaps = self._offsets[i : i + PAIRS_AT_ONCE] != ends - lengths
            if (lengths < 0).any() or gaps.any():
                raise UserError(f"{self.prefix}.idx is damaged: its sequences leave gaps.")
            end = int(ends[-1])
        seen = np.zeros(len(self._lengths) // 2, bool)
        for pairs in self._pairs.values():
            if len(pairs) and (pairs.min() < 0 or pairs.max() >= len(seen)):
                raise UserError(f"{self.prefix}.idx is damaged: a pair number is out of range.")
            seen[pairs] = True
        if not seen.all():
            raise UserError(f"{self.prefix}.idx is damaged: pairs are missing or named twice.")


class JoinedStores:
    """Several stores read as if they were one, in the order given."""

    def __init__(self, stores: Sequence[TokenStore]) -> None:
        """Takes stores, which may have different element types."""
        self.stores = tuple(stores)

    def count(self, kind: Kind) -> int:
        """How many pairs of a kind all stores have."""
        return sum(store.count(kind) for store in self.stores)

    def longest(self, kind: Kind, side: Side = "source") -> int:
        """The length of the longest source or target of a kind in all stores."""
        return max((store.longest(kind, side) for store in self.stores), default=0)

    def lengths(self, kind: Kind, side: Side = "source") -> np.ndarray:
        """The length of every source or target of a kind: int32 `[count]`."""
        return np.concatenate([store.lengths(kind, side) for store in self.stores])

    def read(
        self, kind: Kind, indices: np.ndarray, side: Side = "source", longest: int | None = None
    ) -> TokenRows:
        """`TokenStore.read` with numbers that run on from store to store."""
        starts = np.cumsum([0, *(store.count(kind) for store in self.stores)])
        if len(indices) and not 0 <= indices.min() <= indices.max() < starts[-1]:
            raise IndexError(f"there are {starts[-1]} pairs of kind {kind!r}, numbered from 0.")
        owner = np.searchsorted(starts, indices, side="right") - 1
        parts = [
            (owner == i, store.read(kind, indices[owner == i] - starts[i], side, longest))
            for i, store in enumerate(self.stores)
        ]
        width = max((rows.ids.shape[1] for _, rows in parts), default=0)
        ids = np.zeros((len(indices), width), np.int32)
        lengths = np.zeros(len(indices), np.int64)
        for places, rows in parts:
            ids[places, : rows.ids.shape[1]] = rows.ids
            lengths[places] = rows.lengths
        return TokenRows(ids, lengths)


def open_stores(prefixes: Sequence[str | Path]) -> JoinedStores:
    """Opens stores by their prefixes.

    Raises:
      UserError: No prefix is given, or a store is missing or damaged.
    """
    if not prefixes:
        raise UserError("no token store is given; name at least one prefix.")
    return JoinedStores([TokenStore(prefix) for prefix in prefixes])


def paths_of(prefix: Path) -> tuple[Path, Path]:
    """Index and data file of a prefix, which may contain dots."""
    return prefix.with_name(prefix.name + ".idx"), prefix.with_name(prefix.name + ".bin")


def _map(path: Path, dtype: np.dtype) -> np.ndarray:
    """The file as an array; an empty file cannot be mapped."""
    if path.stat().st_size == 0:
        return np.zeros(0, dtype)
    return np.memmap(path, dtype, "r").view(np.ndarray)
