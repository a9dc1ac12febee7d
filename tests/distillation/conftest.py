"""A trained ancestor and models that were cut from it; tests must not change them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "training"))
from toy_cuts import cut
from toy_run import toy_model, toy_train


@pytest.fixture(scope="package")
def ancestor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy model that has learnt a little."""
    folder = tmp_path_factory.mktemp("teachers") / "ancestor"
    toy_train(folder, model=toy_model(dropout_rate=0.0), train_steps=40, eval_every=40)
    return folder


@pytest.fixture(scope="package")
def narrow(ancestor: Path) -> Path:
    """Fewer layers, channels, heads and units."""
    return cut(ancestor, ancestor.parent / "narrow", "width")


@pytest.fixture(scope="package")
def few_words(ancestor: Path) -> Path:
    """The same, and a smaller vocabulary with rows that pad."""
    return cut(ancestor, ancestor.parent / "few_words", "width", "vocabulary")
