"""What mains refuse before they write anything: sources as targets, places that are no output."""

from __future__ import annotations

import os
import shutil
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from absl import flags
from absl.testing import flagsaver

import gin
import openba_jax.eval
import openba_jax.infer
import openba_jax.pipeline
import openba_jax.sweep
import openba_jax.train
from openba_jax import cli
from openba_jax.checkpoints import model_folder
from openba_jax.checkpoints.registry import detect
from openba_jax.cli import arguments as arguments_of_cli
from openba_jax.errors import UserError
from openba_jax.pruning.apply import prune_checkpoint
from openba_jax.pruning.stages import Stage

Call = Callable[..., None]


@pytest.fixture(scope="module", autouse=True)
def defined_flags() -> None:
    if "gin_file" not in flags.FLAGS:
        cli.define_gin_flags()
    if "profile_steps" not in flags.FLAGS:
        openba_jax.train.define_flags()


@pytest.fixture
def call() -> Iterator[Call]:
    """Calls a gin main in this process."""

    def run(main: types.ModuleType, *arguments: str) -> None:
        gin.clear_config()
        with flagsaver.flagsaver(), gin.config.interactive_mode():
            for name in ("gin_file", "gin_bindings"):
                flags.FLAGS[name].unparse()
            main.main(flags.FLAGS(["main", *arguments_of_cli.rewrite_gin_arguments(arguments)]))

    yield run
    gin.clear_config()


@pytest.fixture
def place(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a copy of all that goes with a model, and what may be in the way."""
    place = tmp_path / "place"
    shutil.copytree(folder, place)
    monkeypatch.chdir(place)
    monkeypatch.setenv("HOME", str(place))
    (place / "link").symlink_to("model")
    (place / "to_nothing").symlink_to("nothing")
    os.mkfifo(place / "fifo")
    (place / "prompts.txt").write_text("Two?\n")
    return place


TRAIN = (
    "--gin_file=gin/runs/native/recover.gin",
    "--gin.TOKEN_STORES=['spans']",
    "--gin.VOCABULARY='model/tokenizer.model'",
    "--gin.TASK_FEATURE_LENGTHS={'inputs': 32, 'targets': 32}",
    "--gin.BATCH_SIZE=2",
    "--gin.TRAIN_STEPS=1",
)


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("model", "model"),
        ("model", "link"),
        ("link", "./model/"),
        ("~/model", "model/../model"),
        ("model", "model/again"),
        ("model/checkpoints/0", "model"),
        ("model/checkpoints/0", "model/checkpoints/0"),
        ("model", "."),
    ],
)
def test_a_run_does_not_start_from_its_own_folder(
    place: Path, call: Call, unchanged: Callable, source: str, target: str
) -> None:
    with unchanged(place), pytest.raises(UserError, match="the initial checkpoint, which is only"):
        call(
            openba_jax.train,
            *TRAIN,
            f"--gin.INITIAL_CHECKPOINT_PATH='{source}'",
            f"--gin.MODEL_DIR='{target}'",
        )


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("fifo", "fifo is a pipe"),
        ("/dev/null", "/dev/null is a device"),
        ("prompts.txt", "prompts.txt is a file"),
        ("to_nothing", "is a link to"),
        ("gs://bucket/model", "is an address"),
    ],
)
def test_places_that_are_no_model_folder(
    place: Path, call: Call, unchanged: Callable, target: str, message: str
) -> None:
    source = "--gin.INITIAL_CHECKPOINT_PATH='model'"
    with unchanged(place), pytest.raises(UserError, match=message):
        call(openba_jax.train, *TRAIN, source, f"--gin.MODEL_DIR='{target}'")
    with unchanged(place), pytest.raises(UserError, match=message):
        prune_checkpoint("model", target, Stage("cut", drop_decoder=(1,)))


def test_home_is_expanded_and_empty_folders_are_trained_in(place: Path, call: Call) -> None:
    (place / "empty").mkdir()
    (place / "to_empty").symlink_to("empty")
    call(
        openba_jax.train,
        *TRAIN,
        "--gin.INITIAL_CHECKPOINT_PATH='~/model'",
        "--gin.VOCABULARY='~/model/tokenizer.model'",
        "--gin.TOKEN_STORES='~/spans'",
        "--gin.MODEL_DIR='~/to_empty'",
    )
    assert model_folder.steps(place / "empty") == [1]
    assert (place / "to_empty").is_symlink()
    assert not (place / "~").exists()


@pytest.mark.parametrize("target", ["model", "link", "model/cut", ".", "x/../model"])
def test_pruning_does_not_write_its_source(place: Path, unchanged: Callable, target: str) -> None:
    for source in ("model", "model/checkpoints/0", "link"):
        for keep in (False, True):
            with unchanged(place), pytest.raises(UserError, match="the checkpoint to prune, which"):
                prune_checkpoint(
                    source, target, Stage("cut", drop_decoder=(1,)), keep_optimizer=keep
                )


def test_pruning_goes_into_an_empty_folder(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "empty").mkdir()
    monkeypatch.chdir(place / "empty")
    prune_checkpoint("~/model", ".", Stage("cut", drop_decoder=(1,)))
    assert detect(place / "empty").name == "native"
    assert Path(".").resolve() == place / "empty"


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("model", "is a folder; name a file"),
        ("link/config.json", "the output link/config.json|lies in model, the model"),
        ("model/answers.jsonl", "lies in model, the model"),
        ("fifo", "fifo is a pipe"),
        ("/dev/null", "is a device"),
        ("to_nothing", "is a link to"),
        ("prompts.txt/x", "prompts.txt is a file"),
        ("s3://bucket/answers", "is an address"),
    ],
)
def test_places_that_are_no_output_file(
    place: Path, call: Call, unchanged: Callable, target: str, message: str
) -> None:
    output = f"--gin.OUTPUT_FILE='{target}'"
    for main, asked in (
        (openba_jax.infer, "--gin.PROMPTS='Two?'"),
        (openba_jax.eval, "--gin.QUESTIONS='questions'"),
    ):
        file = f"--gin_file=gin/runs/native/{main.__name__.rpartition('.')[2]}.gin"
        with unchanged(place), pytest.raises(UserError, match=message):
            call(main, file, "--gin.MODEL_DIR='model'", asked, output)


def test_outputs_that_are_inputs(place: Path, call: Call, unchanged: Callable) -> None:
    infer = "--gin_file=gin/runs/native/infer.gin", "--gin.MODEL_DIR='model'"
    measure = "--gin_file=gin/runs/native/eval.gin", "--gin.MODEL_DIR='model'"
    (place / "again").symlink_to("prompts.txt")
    with unchanged(place):
        for output in ("prompts.txt", "again", "./prompts.txt"):
            with pytest.raises(UserError, match="file of prompts, which is only read"):
                call(
                    openba_jax.infer,
                    *infer,
                    "--gin.INPUT_FILE='prompts.txt'",
                    f"--gin.OUTPUT_FILE='{output}'",
                )
        with pytest.raises(UserError, match="folder of questions, which is only read"):
            call(
                openba_jax.eval,
                *measure,
                "--gin.QUESTIONS='questions'",
                "--gin.OUTPUT_FILE='questions/figures.json'",
            )
        with pytest.raises(UserError, match="token store, which is only read"):
            call(
                openba_jax.eval,
                *measure,
                "--gin.MIXTURE_OR_TASK_NAME='ul2'",
                "--gin.TOKEN_STORES='spans'",
                "--gin.OUTPUT_FILE='spans.json'",
            )


def test_answers_go_through_a_link(place: Path, call: Call) -> None:
    (place / "real.jsonl").write_text("old")
    (place / "answers.jsonl").symlink_to("real.jsonl")
    call(
        openba_jax.infer,
        "--gin_file=gin/runs/native/infer.gin",
        "--gin.MODEL_DIR='~/model'",
        "--gin.INPUT_FILE='~/prompts.txt'",
        "--gin.OUTPUT_FILE='answers.jsonl'",
        "--gin.MAX_NEW_TOKENS=2",
    )
    assert (place / "answers.jsonl").is_symlink()
    assert '"Two?"' in (place / "real.jsonl").read_text()


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        (r"--gin.PROMPTS=['Two?', 'a\ud800b']", r"prompt 2 holds '\\ud800', half of a pair"),
        ("--gin.PROMPTS='\udcff'", "this is not UTF-8"),
        ("--gin.TEMPERATURE=1e-38", "temperature is 1e-38; it must be 0"),
        ("--gin.TEMPERATURE=1e999", "temperature is inf"),
        ("--gin.TEMPERATURE=-0.5", "temperature is -0.5"),
        ("--gin.TOP_P=1.5", "top_p is 1.5"),
        ("--gin.BEAMS=0", "BEAMS is 0"),
        ("--gin.LENGTH_PENALTY=1e999", "LENGTH_PENALTY is inf"),
        ("--gin.EARLY_STOPPING=True", "give BEAMS, too"),
        ("--gin.OUTPUT_FILE='memory://x'", "is an address"),
        ("--gin.MODEL_DIR='gs://bucket/model'", "is an address"),
        ("--gin.INPUT_FILE='~nobody_at_all/x'", "home that is not known"),
    ],
)
def test_questions_that_cannot_be_asked(
    place: Path, call: Call, unchanged: Callable, argument: str, message: str
) -> None:
    arguments = ["--gin_file=gin/runs/native/infer.gin", "--gin.MODEL_DIR='model'"]
    with unchanged(place), pytest.raises(UserError, match=message):
        call(openba_jax.infer, *arguments, "--gin.PROMPTS='Two?'", argument)


PIPELINE = (
    "--gin_file=gin/runs/native/quickstart.gin",
    "--gin.CORPUS='prompts.txt'",
    "--gin.INSTRUCTIONS='instructions.jsonl'",
    "--gin.QUESTIONS='questions'",
)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (".", "holds prompts.txt, the data of the pipeline"),
        ("questions/run", "lies in questions, the data"),
        ("fifo", "fifo is a pipe"),
        ("prompts.txt", "prompts.txt is a file"),
        ("to_nothing", "is a link to"),
        ("gs://bucket/run", "is an address"),
    ],
)
def test_places_that_are_no_folder_of_a_pipeline_or_a_sweep(
    place: Path, call: Call, unchanged: Callable, target: str, message: str
) -> None:
    output = f"--gin.OUTPUT_DIR='{target}'"
    with unchanged(place), pytest.raises(UserError, match=message):
        call(openba_jax.pipeline, *PIPELINE, output)
    if "data" not in message:
        with unchanged(place), pytest.raises(UserError, match=message):
            call(openba_jax.sweep, "--gin_file=gin/sweeps/width_method.gin", output)


def test_misspelt_scopes_and_macros_of_other_files(place: Path, call: Call) -> None:
    output = "--gin.OUTPUT_DIR='run'"
    with pytest.raises(UserError, match=r"no scope widht_1; known are .*width_1, width_2"):
        call(openba_jax.pipeline, *PIPELINE, output, "--gin.widht_1/Stage.mlp=3")
    infer = "--gin_file=gin/runs/native/infer.gin", "--gin.MODEL_DIR='model'"
    with pytest.raises(UserError, match="no scope fast; no gin file has any"):
        call(openba_jax.infer, *infer, "--gin.fast/infer.top_k=3")
    pretrain = "--gin_file=gin/runs/native/pretrain.gin", "--gin.MODEL_DIR='new'"
    with pytest.raises(UserError, match=r"finetune\.gin and .* and \d more have it"):
        call(openba_jax.train, *pretrain, "--gin.INITIAL_CHECKPOINT_PATH='model'")
    assert not (place / "new").exists()
