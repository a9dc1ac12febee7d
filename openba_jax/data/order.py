"""`Order`: which example of a kind comes when, by chance but as a function of its number alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from openba_jax.data.permutation import permute
from openba_jax.data.schedule import Schedule
from openba_jax.data.store.manifest import sources_of
from openba_jax.data.store.token_store import JoinedStores
from openba_jax.errors import UserError
from openba_jax.objectives import counter_random
from openba_jax.objectives.token_rows import STREAM_NAMES, Kind

_BLOCK = 1 << 12


@dataclasses.dataclass(frozen=True)
class Order:
    """The order in which training draws the examples of one kind.

    Sources without weights are one: every epoch shows each of their examples once. Sources with
    weights take turns in that ratio, each with epochs of its own; every block of 4096 draws holds
    their shares as exactly as whole numbers allow. Within a block the turns are shuffled, for
    tasks take even turns as well and would else always meet the same sources.

    Attributes:
      kind: of the examples.
      seed: of the order.
      sizes: examples of each source, which are numbered through.
      weights: of the sources; empty where there is but one.
    """

    kind: Kind
    seed: int
    sizes: Sequence[int]
    weights: tuple[float, ...] = ()

    def at(self, draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What is drawn: int64 `[n]` -> epochs and numbers of examples, int64 `[n]` each."""
        if not self.weights:
            return self._shuffled(draws, self.sizes[0], ())
        block, place = np.divmod(draws, _BLOCK)
        key = counter_random.key(self.seed, "turns", STREAM_NAMES[self.kind], block)
        place = permute(place, _BLOCK, key)
        turns = Schedule(self.weights, seed=self.seed)
        positions = block * _BLOCK + place
        owners, counts = turns.tasks_at(positions), turns.counts_before(positions)
        epochs, indices = np.zeros_like(draws), np.zeros_like(draws)
        starts = np.cumsum([0, *self.sizes])
        for source, size in enumerate(self.sizes):
            here = owners == source
            epochs[here], indices[here] = self._shuffled(counts[source, here], size, (source,))
            indices[here] += starts[source]
        return epochs, indices

    def _shuffled(
        self, draws: np.ndarray, size: int, source: tuple[int, ...]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Epochs, and numbers within one source."""
        epochs, indices = np.divmod(draws, size)
        key = counter_random.key(self.seed, "order", STREAM_NAMES[self.kind], *source, epochs)
        return epochs, permute(indices, size, key)


def order_of(stores: JoinedStores, kind: Kind, count: int, seed: int) -> Order:
    """The order of the first `count` examples of some stores, by the weights of their manifests.

    Raises:
      UserError: Some sources have a weight and others have none.
    """
    sources = [s for store in stores.stores for s in sources_of(store) if s.get(kind)]
    weights = [source["weight"] for source in sources]
    if all(weight is None for weight in weights):
        return Order(kind, seed, (count,))
    if None in weights:
        names = [source["name"] for source in sources if source["weight"] is None]
        raise UserError(
            f"of the sources of {', '.join(str(store.prefix) for store in stores.stores)} some "
            f"have weights, but not {', '.join(names)}; prepare all or none with a weight."
        )
    ends = np.minimum(np.cumsum([source[kind] for source in sources]), count)
    sizes = np.diff(ends, prepend=0)
    kept = np.flatnonzero(sizes)  # What is held out may be all of the last sources.
    return Order(kind, seed, tuple(sizes[kept].tolist()), tuple(weights[i] for i in kept))
