"""A model folder with all that goes with it, and a check that folders stay as they are."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import pytest

from openba_jax.checkpoints import training_state
from openba_jax.data.text.chunks import TextSource
from openba_jax.data.text.preparation import prepare
from openba_jax.data.text.rules import TextGroups
from openba_jax.data.vocabulary_training import train_vocabulary
from openba_jax.models.registry import model_of, named_config


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`model`, a token store `spans`, `questions`, and another tokenizer, `large.model`."""
    root = tmp_path_factory.mktemp("answers")
    texts = [f"The square of {i} is {i * i}, its cube is {i**3}." for i in range(300)]
    vocabulary = train_vocabulary(texts, 300, root / "tokenizer.model")
    train_vocabulary(texts, 420, root / "large.model")
    model = model_of(named_config("tiny", vocab_size=vocabulary.size, initializer_std=0.3))
    params = jax.jit(model.init)(jax.random.key(0))
    training_state.create(root / "model", model, params, tokenizer=vocabulary.path)
    (root / "text.txt").write_text("\n".join(texts))
    prepare([TextSource("text", [root / "text.txt"])], TextGroups(24), vocabulary, root / "spans")
    (root / "questions").mkdir()
    fields = {"question": "2?", "res1": "4", "res2": "8", "ans": "A"}
    (root / "questions" / "squares.json").write_text(json.dumps([{"demo": [], "data": fields}]))
    return root


def _snapshot(folder: Path) -> dict[str, str]:
    """What every name below a folder stands for: a hash, the end of a link, or another kind."""
    found = {}
    for path in folder.rglob("*"):
        kind = "folder" if path.is_dir() else "other"
        if path.is_symlink():
            kind = f"link to {os.readlink(path)}"
        elif path.is_file():
            kind = hashlib.sha256(path.read_bytes()).hexdigest()
        found[str(path.relative_to(folder))] = kind
    return found


Unchanged = Callable[[Path], contextlib.AbstractContextManager[None]]


@pytest.fixture(scope="session")
def unchanged() -> Unchanged:
    """Within `unchanged(folder)` nothing in the folder may appear, vanish or change."""

    @contextlib.contextmanager
    def check(folder: Path) -> Iterator[None]:
        before = _snapshot(folder)
        assert before
        yield
        assert _snapshot(folder) == before

    return check
