"""Plain pairs, as T5 is tuned."""

from __future__ import annotations

import numpy as np
import pytest

from openba_jax.errors import UserError
from openba_jax.objectives.instruction import Pairs
from openba_jax.objectives.special_ids import OpenBAIds
from openba_jax.objectives.token_rows import TokenRows

IDS = OpenBAIds(1000)


def test_sources_end_with_eos_and_targets_as_they_are_prepared() -> None:
    read = {"source": TokenRows.of([[5, 6], [7] * 9]), "target": TokenRows.of([[8, 1], [9] * 9])}
    samples = Pairs().samples(read, np.zeros(2, np.uint64), IDS, 5, 4)
    assert samples["inputs"].tolist() == [[5, 6, 1, 0, 0], [7, 7, 7, 7, 1]]
    assert samples["targets"].tolist() == [[8, 1, 0, 0], [9, 9, 9, 9]]
    lengths = Pairs().sample_lengths(np.array([2, 9]), np.array([2, 9]), 5, 4)
    assert [each.tolist() for each in lengths] == [[3, 5], [2, 4]]


def test_no_room() -> None:
    with pytest.raises(UserError, match="no room for a pair"):
        Pairs().limits(1, 4)
