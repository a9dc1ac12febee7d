"""`openba-prune` on models with one stack of layers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver
from memory_checkpoint import MemoryCheckpoint

import openba_jax.prune
from openba_jax.checkpoints.formats.native import Native
from openba_jax.checkpoints.registry import open_checkpoint
from openba_jax.errors import UserError
from openba_jax.models.registry import named_config
from openba_jax.pruning import saved_scores
from openba_jax.pruning.criteria.base import Subject
from openba_jax.pruning.criteria.registry import score


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


UNUSED = [
    (["--drop_layers=1", "--method=taylor"], "--method changes nothing: no size"),
    (["--drop_layers=1", "--seed=3"], "--seed changes nothing: nothing is drawn"),
    (["--mlp=16", "--method=magnitude", "--seed=3"], "--seed changes nothing: nothing is drawn"),
    (["--mlp=16", "--calibration_stores=none"], "--calibration_stores changes nothing: nothing"),
    (
        ["--mlp=16", "--method=random", "--scores={scores}"],
        "--scores changes nothing: all is drawn",
    ),
]
REFUSED = [
    (["--mlp=16", "--method=nonsense"], "no pruning method is called 'nonsense'"),
    (["--mlp=16", "--method=taylor"], "taylor needs text .* give calibration batches"),
    (["--mlp=16", "--method=magnitude,heads=random"], "a method for heads, which it does not cut"),
    (["--mlp=16", "--compensation=ridge"], "compensation ridge needs text"),
    (["--mlp=16", "--scores=nowhere.npz"], "nowhere.npz does not exist"),
    (["--embed=16", "--scores={scores}"], "has no scores of embed; it has decoder/mlp"),
    (["--mlp=16", "--scores={scores}", "--method=taylor"], "scores decoder/mlp by magnitude"),
]


@pytest.fixture
def scores(models: Path) -> Path:
    """Scores of the LLaMA's units by magnitude."""
    opened = open_checkpoint(models / "llama")
    found = score("magnitude", Subject(opened.model, opened.read), ["decoder/mlp"])
    digest = saved_scores.fingerprint(opened)
    methods = dict.fromkeys(found, "magnitude")
    saved_scores.SavedScores(found, methods, digest, {}).save(models / "scores.npz")
    return models / "scores.npz"


@pytest.mark.parametrize("dry", [[], ["--dry_run"]])
@pytest.mark.parametrize(("arguments", "message"), [*UNUSED, *REFUSED])
def test_what_would_change_nothing_or_cannot_be_is_refused_with_and_without_a_dry_run(
    models: Path, scores: Path, prune: Callable, arguments: list[str], message: str, dry: list[str]
) -> None:
    given = [argument.format(scores=scores) for argument in arguments]
    with pytest.raises(UserError, match=message):
        prune(f"--input={models}/llama", f"--output={models}/cut_so", *given, *dry)
    assert not (models / "cut_so").exists()


def test_scores_bring_their_criteria(models: Path, scores: Path, prune: Callable) -> None:
    folders = f"--input={models}/llama", f"--output={models}/by_scores"
    prune(*folders, "--mlp=16", f"--scores={scores}")
    plan = json.loads((models / "by_scores/plan.json").read_text())
    assert plan["steps"][0]["method"] == "magnitude"
    best = np.argsort(-np.load(scores)["decoder.mlp"], axis=-1, kind="stable")[:, :16]
    assert plan["keep"]["decoder/mlp"] == np.sort(best, axis=-1).tolist()


def test_a_cut_that_cuts_nothing_says_so(
    models: Path, prune: Callable, caplog: pytest.LogCaptureFixture
) -> None:
    width = open_checkpoint(models / "llama").model.axes.sizes["decoder/mlp"]
    prune(f"--input={models}/llama", f"--output={models}/as_wide", f"--mlp={width}")
    assert "leaves all" in caplog.text


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
