"""Somebody else's model folder is data: nothing in it is executed, and what is huge is refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from openba_jax.checkpoints import model_folder, training_state
from openba_jax.data.vocabularies.base import Vocabulary
from openba_jax.errors import UserError
from openba_jax.eval import evaluate
from openba_jax.infer import infer
from openba_jax.inference.loading import load
from openba_jax.pruning.apply import prune_checkpoint
from openba_jax.pruning.stages import Stage

EVIL = "from pathlib import Path\nPath({mark!r}).write_text('executed')\n"
PLANS = {
    "deep": "[" * 100_000,
    "deep_object": '{"keep": ' + "[" * 100_000 + "]" * 100_000 + "}",
    "digits": '{"keep": {"embed": [' + "9" * 100_000 + "]}}",
    "list": "[1, 2]",
    "other": '{"keep": {"embed": "__import__(\'os\')"}}',
}


@pytest.fixture
def folder(loaded, vocabulary: Vocabulary, tmp_path: Path, monkeypatch) -> Path:
    """A model folder with code in it, which would leave `executed` beside the folder."""
    folder = tmp_path / "model"
    training_state.create(folder, *loaded, tokenizer=vocabulary.path)
    evil = EVIL.format(mark=str(tmp_path / "executed"))
    for name in ("evil.py", "config.py", "sitecustomize.py", "__init__.py"):
        (folder / name).write_text(evil)
    (folder / "config.gin").write_text("import evil\ninclude '/dev/zero'\nevil.x = @evil.y()\n")
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    return folder


def test_code_beside_a_model_is_not_executed(folder: Path, tmp_path: Path) -> None:
    infer(str(folder), ["who"], output_file=str(tmp_path / "answers.jsonl"), max_new_tokens=2)
    (tmp_path / "questions").mkdir()
    fields = {"question": "Who?", "res1": "I", "res2": "you", "ans": "B"}
    (tmp_path / "questions/people.json").write_text(json.dumps([{"data": fields}]))
    evaluate(str(folder), str(tmp_path / "questions"), batch_size=1)
    prune_checkpoint(folder, tmp_path / "pruned", Stage("cut", drop_decoder=[1]))
    assert (tmp_path / "pruned/plan.json").exists()
    assert not (tmp_path / "executed").exists()
    assert "evil" not in sys.modules


@pytest.mark.parametrize("name", PLANS)
def test_plans_that_are_none_are_refused(folder: Path, tmp_path: Path, name: str) -> None:
    (folder / "plan.json").write_text(PLANS[name])
    with pytest.raises(UserError, match=r"plan"):
        prune_checkpoint(folder, tmp_path / "pruned", Stage("cut", drop_decoder=[1]))
    assert not (tmp_path / "pruned").exists()
    assert not (tmp_path / "executed").exists()


def test_a_huge_plan_is_not_read(folder: Path, tmp_path: Path) -> None:
    with (folder / "plan.json").open("wb") as file:
        file.truncate(1 << 34)  # 16 GiB of nothing, which take no room on the disk.
    with pytest.raises(UserError, match="has 17179869184 bytes, which no pruning plan takes"):
        model_folder.load_plan(folder)
    with pytest.raises(UserError, match="which no pruning plan takes"):
        prune_checkpoint(folder, tmp_path / "pruned", Stage("cut", drop_decoder=[1]))
    assert not (tmp_path / "pruned").exists()


@pytest.mark.parametrize("text", ["[" * 100_000, '{"model_type": ' + "[" * 100_000, "[]", "3"])
def test_configs_that_are_none_are_refused(folder: Path, tmp_path: Path, text: str) -> None:
    (folder / "config.json").write_text(text)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/config.json").write_text(text)
    for path in (folder, tmp_path / "other"):
        with pytest.raises(UserError):
            load(path, (1, 1, 1))
    assert not (tmp_path / "executed").exists()
