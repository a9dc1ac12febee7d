"""`openba-prune` on models with one stack of layers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from absl import flags
from absl.testing import flagsaver
from memory_checkpoint import MemoryCheckpoint

import openba_jax.prune
from openba_jax.checkpoints.formats.native import Native
from openba_jax.errors import UserError
from openba_jax.models.registry import named_config


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A folder with a model of one stack, `llama`, and one of two, `openba`."""
    for name, config in {"llama": "tiny_llama", "openba": "tiny"}.items():
        (tmp_path / name).mkdir()
        Native().write(MemoryCheckpoint(named_config(config)), tmp_path / name)
    return tmp_path


@pytest.fixture(scope="module", autouse=True)
def defined_flags() -> Iterator[None]:
    """The flags of openba-prune; other mains that run in this process have some of the same."""
    values = flags.FLAGS
    others = {
        name: values[name]
        for name in values
        if (values.find_module_defining_flag(name) or "").startswith("openba_jax")
    }
    for name in others:
        delattr(values, name)
    left = set(values)
    openba_jax.prune.define_flags()
    yield
    for name in set(values) - left:
        delattr(values, name)
    for name, flag in others.items():
        values[name] = flag
    values.mark_as_parsed()


@pytest.fixture
def prune() -> Callable[..., None]:
    """Calls the main in this process."""

    def run(*arguments: str) -> None:
        with flagsaver.flagsaver():
            openba_jax.prune.main(flags.FLAGS(["openba-prune", *arguments]))

    return run


def test_layers_of_the_only_stack_need_no_name(models: Path, prune: Callable) -> None:
    folders = f"--input={models}/llama", f"--output={models}/cut"
    prune(*folders, "--drop_layers=2", "--one_based")
    plan = json.loads((models / "cut/plan.json").read_text())
    assert plan["keep"] == {"decoder/layers": [0, 2]}


@pytest.mark.parametrize(
    ("model", "flags", "message"),
    [
        ("openba", ["--drop_layers=1"], "drop_layers is .* family openba has encoder and decoder"),
        ("llama", ["--drop_layers=1", "--drop_decoder_layers=1"], "drop and in drop_decoder"),
        ("llama", ["--drop_layers=9"], "decoder layer 9 does not exist"),
        ("llama", ["--drop_layers=x"], "layers to drop are whole numbers, not x"),
        ("llama", ["--drop_encoder_layers=0"], "no stack 'encoder' of layers; it has decoder"),
    ],
)
def test_layers_that_cannot_be_dropped(
    models: Path, prune: Callable, model: str, flags: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        prune(f"--input={models}/{model}", f"--output={models}/cut", *flags)
    assert not (models / "cut").exists()


def test_sizes_that_tools_refuse_are_named_before_anything_is_written(
    models: Path, prune: Callable, caplog: pytest.LogCaptureFixture
) -> None:
    folders = f"--input={models}/llama", f"--output={models}/narrow"
    with pytest.raises(UserError, match="no rules for 'gguff'; did you mean gguf"):
        prune(*folders, "--mlp=33", "--for=gguff")
    assert not (models / "narrow").exists()
    prune(*folders, "--embed=30", "--heads=3", "--mlp=33", "--for=gguf,ctranslate2")
    said = "\n".join(record.getMessage() for record in caplog.records)
    assert "gguf: mlp is 33 and not a multiple of 32" in said
    assert "ctranslate2: heads x kv is 24 and not as large as embed" in said
    assert "vllm" not in said


def test_a_dry_run_shows_what_the_cut_then_leaves_and_writes_nothing(
    models: Path, prune: Callable, capsys: pytest.CaptureFixture[str]
) -> None:
    cut = (
        f"--input={models}/openba",
        f"--output={models}/cut",
        "--mlp=48",
        "--drop_decoder_layers=1",
    )
    prune(*cut, "--dry_run")
    shown = capsys.readouterr().out
    before, after = (line.split() for line in shown.splitlines()[3:5])
    assert (before[:2], after[:2]) == (["before", "2+3"], ["after", "2+2"])
    assert not (models / "cut").exists()
    prune(*cut)
    made = Native().open(models / "cut").model
    assert after[-4] == f"{made.axes.count():,}"
    assert f"would hold {4 * made.axes.count():,} bytes. Nothing is written." in shown
    with pytest.raises(UserError, match="cut exists already"):
        prune(*cut, "--dry_run")
    with pytest.raises(UserError, match="did you mean taylor"):
        prune(*cut[:1], f"--output={models}/other", "--mlp=48", "--dry_run", "--method=tailor")


def test_a_folder_without_a_tokenizer_says_so_when_it_is_written(
    models: Path, prune: Callable, caplog: pytest.LogCaptureFixture
) -> None:
    prune(f"--input={models}/openba", f"--output={models}/cut", "--mlp=48")
    assert f"{models}/cut has no tokenizer, since its source has none" in caplog.text
