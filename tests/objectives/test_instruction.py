import numpy as np
import pytest

from openba_jax.errors import UserError
from openba_jax.objectives.instruction import Instruction
from openba_jax.objectives.special_ids import OpenBAIds
from openba_jax.objectives.token_rows import TokenRows

IDS = OpenBAIds(10)


def test_rows_of_different_lengths():
    sources, targets = (
        TokenRows.of([[3, 4], [], [5, 6, 7, 8, 9]]),
        TokenRows.of([[6, 1], [1], [3, 4, 5, 1]]),
    )
    sample = Instruction()(sources, targets, IDS, 6, 4)
    e0 = IDS.sentinel(0)
    np.testing.assert_array_equal(
        sample["inputs"],
        [[IDS.s_id, 3, 4, e0, 1, 0], [IDS.s_id, e0, 1, 0, 0, 0], [IDS.s_id, 5, 6, 7, e0, 1]],
    )
    np.testing.assert_array_equal(sample["targets"], [[e0, 6, 1, 0], [e0, 1, 0, 0], [e0, 3, 4, 5]])


def test_no_room():
    with pytest.raises(UserError, match="no room"):
        Instruction()(TokenRows.of([[3]]), TokenRows.of([[1]]), IDS, 3, 4)
