"""seqio tasks over token stores: the samples that `openba_jax.data.loader` builds, one for one.

The source yields numbers of examples; preprocessors read their tokens, which is as far as seqio's
cache goes, and build samples in batches with the numpy objectives. So the same example has the same
sample in both runners in its first epoch, cached or not, and every epoch has new noise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from openba_jax.data.permutation import permute
from openba_jax.data.samples import make_samples
from openba_jax.data.store.manifest import check_vocabulary
from openba_jax.data.store.token_store import JoinedStores, open_stores
from openba_jax.errors import UserError
from openba_jax.objectives import counter_random
from openba_jax.objectives.mixture import Mixture, Task
from openba_jax.objectives.token_rows import STREAM_NAMES, Kind, Side, TokenRows
from openba_jax.seqio.settings import data_files
from openba_jax.seqio.vocabulary import OpenBAVocabulary

_AT_ONCE = 256
_EXAMPLES_OF_A_SHARD = 50_000
_FRAME_TOKENS = 3  # More than the text that a sample has on either side, spans aside.

_SIDES: dict[Kind, tuple[Side, ...]] = {
    "text": ("source",),
    "instructions": ("source", "target"),
}

_VOCABULARY = OpenBAVocabulary()
OUTPUT_FEATURES = {
    "inputs": seqio.Feature(_VOCABULARY, add_eos=False),
    "targets": seqio.Feature(_VOCABULARY, add_eos=False),
}


class TokenStoreSource(seqio.DataSource):
    """The examples of one kind in the token stores of `openba_jax.seqio.settings`, by number.

    The split `train` is all but the held-out examples, `validation` these. Shuffling permutes the
    whole split; a shard is every `num_shards`-th example.
    """

    def __init__(self, kind: Kind) -> None:
        """Takes the kind of pairs; files are opened when they are asked for."""
        super().__init__(
            ("train", "validation"), caching_permitted=True, performs_internal_shuffling=True
        )
        self._kind = kind

    @property
    def splits(self) -> Sequence[str]:
        """`validation` is one where examples are held out."""
        return ("train", "validation") if data_files().held_out else ("train",)

    @property
    def supports_arbitrary_sharding(self) -> bool:
        """Any number of shards."""
        return True

    def list_shards(self, split: str) -> Sequence[str]:
        """Names of parts, of each of which the cache tool makes a file."""
        parts = -(-self.num_input_examples(split) // _EXAMPLES_OF_A_SHARD)
        return [f"{split}-{part}" for part in range(parts)]

    def num_input_examples(self, split: str) -> int:
        """Examples of a split."""
        return len(self._range(split))

    def get_dataset(
        self,
        split: str = "train",
        shuffle: bool = True,
        seed: int | None = None,
        shard_info: seqio.ShardInfo | None = None,
        **unused: object,
    ) -> tf.data.Dataset:
        """Numbers of examples: `index`, and `size`, how many the dataset has, int64 both.

        Raises:
          UserError: no store is named, it is damaged, or the split is empty.
        """
        del unused
        numbers = self._range(split)
        if not numbers:
            raise UserError(f"the token stores have no {self._kind} in split {split}.")
        order = np.arange(len(numbers))
        if shuffle:
            key = counter_random.key(seed or 0, "order", STREAM_NAMES[self._kind])
            order = permute(order, len(numbers), key)
        if shard_info is not None:
            order = order[shard_info.index :: shard_info.num_shards]
        dataset = tf.data.Dataset.from_tensor_slices(numbers.start + order)
        return dataset.map(lambda index: {"index": index, "size": np.int64(len(order))})

    def _range(self, split: str) -> range:
        """The numbers of a split's examples."""
        settings = data_files()
        count = open_stores(settings.require_stores()).count(self._kind)
        first_held_out = max(0, count - settings.held_out)
        return range(first_held_out) if split == "train" else range(first_held_out, count)


class TokenStoreTask(seqio.Task):
    """A task whose cached examples know how many there are, as those of its source do."""

    def _get_cached_source(
        self, split: str, file_shuffle_buffer_size: int | None = None
    ) -> seqio.DataSourceInterface:
        source = super()._get_cached_source(split, file_shuffle_buffer_size)
        return _CachedExamples(source, int(self.get_cached_stats(split)["examples"]))


class _CachedExamples:
    """A cached source with a true `size`.

    How many examples a shard has is unknown. There `size` is 1, so that every visit to an example
    counts as an epoch: noise is new each time as well, but not that of the uncached task.
    """

    def __init__(self, source: seqio.DataSourceInterface, size: int) -> None:
        self._source = source
        self._size = size

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    def get_dataset(
        self, split: str, shuffle: bool, seed: int | None, shard_info: Any = None
    ) -> tf.data.Dataset:
        whole = shard_info is None or shard_info.num_shards == 1
        size = np.int64(self._size if whole else 1)
        dataset = self._source.get_dataset(
            split=split, shuffle=shuffle, seed=seed, shard_info=shard_info
        )
        return dataset.map(lambda example: {**example, "size": size})


def tokens_of(kind: Kind) -> Callable[..., tf.data.Dataset]:
    """A preprocessor that reads examples: `source`, of instructions also `target`, int32 `[n]`."""
    sides = _SIDES[kind]

    def preprocess(dataset: tf.data.Dataset) -> tf.data.Dataset:
        vocabulary = _VOCABULARY.vocabulary
        for prefix in data_files().require_stores():
            check_vocabulary(prefix, vocabulary)
        stores = open_stores(data_files().require_stores())

        def read(indices: np.ndarray) -> list[np.ndarray]:
            rows = [stores.read(kind, indices, side) for side in sides]
            # One column more than is needed: tf.data crashes on batches without any.
            return [array for ids, n in rows for array in (np.pad(ids, ((0, 0), (0, 1))), n)]

        def read_batch(example: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            types = [tf.int32, tf.int64] * len(sides)
            arrays = _ranked(
                tf.numpy_function(read, [example["index"]], types), [2, 1] * len(sides)
            )
            names = [f"{side}{part}" for side in sides for part in ("", "_length")]
            return {**example, **dict(zip(names, arrays, strict=True))}

        def strip(example: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            return {
                "index": example["index"],
                "size": example["size"],
                **{side: example[side][: example[f"{side}_length"]] for side in sides},
            }

        return dataset.batch(_AT_ONCE).map(read_batch).unbatch().map(strip)

    return preprocess


def samples_of(task: Task) -> Callable[..., tf.data.Dataset]:
    """A preprocessor that turns tokens of examples into samples of a task."""
    sides = _SIDES[task.kind]

    def preprocess(
        dataset: tf.data.Dataset, sequence_length: Mapping[str, int] | None = None
    ) -> tf.data.Dataset:
        settings = data_files()
        vocabulary = _VOCABULARY.vocabulary
        # Without lengths nothing is cut off; how long that is, the stores know, not the cache.
        lengths = sequence_length or _whole_lengths(task, open_stores(settings.require_stores()))
        widths = lengths["inputs"], lengths["targets"]
        limits = task.objective.limits(*widths)

        def build(
            indices: np.ndarray, epochs: np.ndarray, *arrays: np.ndarray
        ) -> tuple[np.ndarray, ...]:
            rows = map(TokenRows, arrays[::2], arrays[1::2])
            used = {side: row.cut(limits[side]) for side, row in zip(sides, rows, strict=True)}
            samples = make_samples(task, used, indices, epochs, vocabulary, *widths, settings.seed)
            inputs, targets = samples["inputs"], samples["targets"]
            return inputs, targets, _real_lengths(inputs), _real_lengths(targets)

        def with_lengths(number: tf.Tensor, example: Mapping[str, tf.Tensor]) -> dict:
            return {
                "index": example["index"],
                "epoch": number // example["size"],
                **{side: tf.pad(example[side], [[0, 1]]) for side in sides},
                **{f"{side}_length": tf.size(example[side], tf.int64) for side in sides},
            }

        def build_batch(batch: Mapping[str, tf.Tensor]) -> tuple[tf.Tensor, ...]:
            read = [batch[f"{side}{part}"] for side in sides for part in ("", "_length")]
            arrays = tf.numpy_function(
                build,
                [batch["index"], batch["epoch"], *read],
                (tf.int32, tf.int32, tf.int64, tf.int64),
            )
            return _ranked(arrays, (2, 2, 1, 1))

        def strip(
            inputs: tf.Tensor, targets: tf.Tensor, input_length: tf.Tensor, target_length: tf.Tensor
        ) -> dict[str, tf.Tensor]:
            return {
                "inputs": tf.ensure_shape(inputs[:input_length], [None]),
                "targets": tf.ensure_shape(targets[:target_length], [None]),
            }

        examples = dataset.enumerate().map(with_lengths)
        return examples.padded_batch(_AT_ONCE).map(build_batch).unbatch().map(strip)

    return preprocess


def _ranked(arrays: Sequence[tf.Tensor], ranks: Sequence[int]) -> tuple[tf.Tensor, ...]:
    """Says how many axes the results of a numpy function have."""
    for array, rank in zip(arrays, ranks, strict=True):
        array.set_shape([None] * rank)
    return tuple(arrays)


def add(mixture: Mixture) -> None:
    """Registers a mixture with seqio unless a task has its name, and its tasks that are new."""
    for task in mixture.tasks:
        if task.name in seqio.TaskRegistry.names():
            continue
        seqio.TaskRegistry.add(
            task.name,
            source=TokenStoreSource(task.kind),
            preprocessors=[
                tokens_of(task.kind),
                seqio.CacheDatasetPlaceholder(),
                samples_of(task),
            ],
            output_features=OUTPUT_FEATURES,
            metric_fns=[log_likelihood],
            shuffle_buffer_size=None,
            task_cls=TokenStoreTask,
        )
    if mixture.name not in seqio.TaskRegistry.names():
        seqio.MixtureRegistry.add(
            mixture.name,
            [(task.name, _rate(mixture, task, rate)) for task, rate in mixture.components],
        )


def _rate(mixture: Mixture, task: Task, rate: float) -> float | Callable[[seqio.Task], float]:
    """A rate as seqio takes it; that by what the stores hold is asked for when it is used."""
    if not mixture.by_count:
        return rate
    same = sum(other for each, other in mixture.components if each.kind == task.kind)
    return lambda _: rate / same * TokenStoreSource(task.kind).num_input_examples("train")


def log_likelihood(targets: Sequence[Any], scores: Sequence[float]) -> dict[str, float]:
    """A metric of seqio's: mean log p of whole targets, in nats."""
    del targets
    return {"log_likelihood": float(np.mean(scores))}


def _whole_lengths(task: Task, stores: JoinedStores) -> dict[str, int]:
    """Lengths at which nothing is cut off."""
    sides = [stores.longest(task.kind, side) for side in ("source", "target")]
    if task.kind == "text":
        sides = [sides[0], sides[0]]
    return {name: side + _FRAME_TOKENS for name, side in zip(OUTPUT_FEATURES, sides, strict=True)}


def _real_lengths(rows: np.ndarray) -> np.ndarray:
    """How long each row is without the zeros behind: int64 `[n]`."""
    return rows.shape[1] - (rows[:, ::-1] != 0).argmax(axis=1)
