"""openba-inspect says what a path is, reads no tensor, and names commands that work."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from memory_checkpoint import MemoryCheckpoint

from openba_jax.checkpoints import kinds
from openba_jax.checkpoints.checkpoint import Slot
from openba_jax.checkpoints.formats.huggingface import HuggingFace
from openba_jax.checkpoints.formats.megatron import Megatron
from openba_jax.checkpoints.formats.native import Native
from openba_jax.checkpoints.formats.t5x import T5X
from openba_jax.cli import gin_files
from openba_jax.data.text.chunks import TextSource
from openba_jax.data.text.preparation import prepare
from openba_jax.data.text.rules import TextGroups
from openba_jax.errors import UserError
from openba_jax.inspect.__main__ import page
from openba_jax.inspect.description import describe
from openba_jax.inspect.next_steps import next_steps
from openba_jax.models.registry import named_config
from openba_jax.pruning.apply import prune_checkpoint
from openba_jax.pruning.saved_scores import SavedScores
from openba_jax.pruning.stages import Stage

STATE = [{"count": np.int32(5), "mu": Slot("0/mu"), "nu": Slot("0/nu")}, None]


@pytest.fixture(scope="module")
def root(vocabulary, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with something of every kind."""
    root = tmp_path_factory.mktemp("kinds")
    config = named_config("tiny", vocab_size=vocabulary.size)
    made = MemoryCheckpoint(config, optimizer=STATE)
    made.tokenizer = vocabulary.path
    for name, writer in {"native": Native(), "huggingface": HuggingFace(), "t5x": T5X()}.items():
        (root / name).mkdir()
        writer.write(made if name == "native" else Native().open(root / "native"), root / name)
    bare = MemoryCheckpoint(config, {"": np.dtype("float16")})
    (root / "megatron").mkdir()
    Megatron(2).write(bare, root / "megatron")
    prune_checkpoint(root / "native", root / "cut", Stage("first", mlp=48, drop_decoder=(1,)))
    (root / "run/models").mkdir(parents=True)
    (root / "run/pipeline.gin").write_text("")
    (root / "cut").rename(root / "run/models/cut")
    (root / "text.txt").write_text("what is water who you and me they a metal liquid\n" * 40)
    prepare([TextSource("t", [root / "text.txt"])], TextGroups(9), vocabulary, root / "store.1")
    scores = {"embed": np.ones(32, np.float32)}
    SavedScores(scores, {"embed": "taylor"}, "abc", {"batches": 2}).save(root / "scores.npz")
    (root / "answers").mkdir()
    (root / "answers/answers.json").write_text('{"top": 32}')
    (root / "begun").mkdir()
    (root / "begun/config.json").write_text((root / "native/config.json").read_text())
    return root


def test_a_model_folder(root: Path, vocabulary) -> None:
    about = describe(root / "native")
    assert (about["kind"], about["family"], about["step"]) == ("native", "openba", 3)
    assert about["sizes"]["encoder/mlp"] == 64
    assert about["types"] == {"float32": about["parameters"]}
    assert about["bytes"] == 4 * about["parameters"]
    assert about["optimizer"] is True
    assert about["checkpoints of steps"] == [3]
    assert about["tokenizer"]["ids"] == vocabulary.size
    assert about["plan"] is None


def test_formats_of_others(root: Path) -> None:
    for name, types in {"huggingface": "float32", "t5x": "float32", "megatron": "float16"}.items():
        about = describe(root / name)
        assert about["kind"] == name
        assert list(about["types"]) == [types]
        assert about["parameters"] == describe(root / "native")["parameters"] or name == "megatron"
        assert (about["tokenizer"] is None) == (name == "megatron")
        first = next_steps(about)[0].command
        assert first.startswith(f"openba-convert to_native --input={root / name} --output=FOLDER")
        assert ("--tokenizer=FILE" in first) == (name == "megatron")


def test_the_state_of_another_optimizer_is_no_hindrance(root: Path) -> None:
    assert describe(root / "t5x")["optimizer"] == "of another kind"


def test_a_cut_model_tells_its_lineage(root: Path) -> None:
    about = describe(root / "run/models/cut")
    assert about["plan"]["ancestor"] == str(root / "native")
    assert about["plan"]["ancestor's parameters"] == describe(root / "native")["parameters"]
    assert about["plan"]["share of the ancestor"] < 1
    assert {step["stage"] for step in about["plan"]["steps"]} == {"first"}
    assert about["sizes"]["decoder/layers"] == 2
    assert about["step"] == 0
    assert not about["optimizer"]


def test_what_is_no_checkpoint(root: Path) -> None:
    assert describe(root / "store.1")["groups of text"] > 0
    for name in ("store.1.bin", "store.1.idx"):
        assert describe(root / name)["prefix"] == str(root / "store.1")
    assert describe(root / "scores.npz")["methods"] == {"embed": "taylor"}
    assert describe(root / "answers")["setting"] == {"top": 32}
    assert describe(root / "begun")["family"] == "openba"
    assert describe(root / "huggingface/model.safetensors")["folder"] == str(root / "huggingface")
    run = describe(root / "run")
    assert run["kind"] == "pipeline"
    assert run["checkpoints"] == {str(root / "run/models/cut"): [0]}
    assert set(describe(root)["checkpoints"]) == {
        str(root / name) for name in ("native", "huggingface", "t5x", "megatron")
    }
    for name in ("native", "store.1", "scores.npz", "answers", "begun", "run", ""):
        about = describe(root / name)
        assert max(map(len, page(about).splitlines())) <= max(100, len(str(root)) + 60)
        assert next_steps(about)
        assert json.loads(json.dumps(about, allow_nan=False))


def test_nothing_that_is_known(root: Path, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for name, message in {"folder": "is no checkpoint that is known", "no": "is no folder"}.items():
        with pytest.raises(UserError, match=message):
            describe(tmp_path / name)
    (tmp_path / "config.json").write_text('{"family": "openba", "wings": 2}')
    with pytest.raises(UserError, match="wings"):
        describe(tmp_path)
    assert kinds.other_kind(Path()) is None or kinds.other_kind(Path()).name != "store"


def test_no_tensor_is_read(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from openba_jax.checkpoints import arrays, checksums, mapped

    def refuse(*_: object) -> None:
        raise AssertionError("a tensor is read")

    monkeypatch.setattr(checksums, "_crc32", refuse)
    monkeypatch.setattr(arrays.ArrayCheckpoint, "read", refuse)
    monkeypatch.setattr(mapped.MappedCheckpoint, "read", refuse)
    for name in ("native", "huggingface", "t5x", "megatron", "run/models/cut"):
        describe(root / name)


def test_the_commands_that_are_named_can_be_given_as_they_stand(root: Path, tmp_path: Path) -> None:
    commands = {step.purpose: step.command for step in next_steps(describe(root / "native"))}
    for purpose in ("ask it", "measure it", "cut, recover and measure it"):
        _, _, file, *bindings = shlex.split(commands[purpose])
        macros = {m.name for m in gin_files.macros([file.removeprefix("--gin_file=")], [], [])}
        assert {b.removeprefix("--gin.").partition("=")[0] for b in bindings} <= macros
    words = shlex.split(commands["see what a cut would leave"])
    done = subprocess.run(
        [sys.executable, "-m", "openba_jax", *words[1:]],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Nothing is written" in done.stdout
    assert not (root / "native-cut").exists()
