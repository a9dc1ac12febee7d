"""Finds T5X: where Python finds it, or in the checkouts that OPENBA_T5X_PATH names."""

from __future__ import annotations

import os
import sys

import pytest

sys.path[:0] = [path for path in os.environ.get("OPENBA_T5X_PATH", "").split(os.pathsep) if path]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent.name == "t5x":
            item.add_marker(pytest.mark.t5x)
