"""A model in memory, to be written, cut and read back."""

from __future__ import annotations

import pytest
from memory_checkpoint import MemoryCheckpoint


@pytest.fixture
def make_source():
    return MemoryCheckpoint
