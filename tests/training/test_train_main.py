"""The main and its gin files."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import gin
from openba_jax.checkpoints import model_folder, training_state
from openba_jax.data.text.chunks import TextSource
from openba_jax.data.text.preparation import prepare
from openba_jax.data.text.rules import TextGroups
from openba_jax.data.vocabulary_training import train_vocabulary
from openba_jax.errors import UserError
from openba_jax.models.registry import model_of, named_config, named_configs
from openba_jax.training import gin_bindings, optimizer
from openba_jax.training.records import metrics

REPOSITORY = Path(__file__).resolve().parents[2]
COLOURS, THINGS = ("red", "blue", "green", "black"), ("house", "tree", "river", "stone", "bird")


@pytest.fixture(autouse=True)
def clean_gin() -> Iterator[None]:
    gin.clear_config()
    gin.add_config_file_search_path(str(REPOSITORY))
    yield
    gin.clear_config()


@pytest.fixture
def run_main(cached_environment: dict[str, str]) -> Callable[..., Any]:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "openba_jax.train", *arguments],
            env=cached_environment,
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    return run


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `tokenizer.model` and a token store `spans`."""
    folder = tmp_path_factory.mktemp("text")
    lines = [
        f"The {COLOURS[i % 4]} {THINGS[i % 5]} is number {i} of the {THINGS[i % 3]}s."
        for i in range(200)
    ]
    with (folder / "text.jsonl").open("w") as file:
        for i in range(0, 200, 10):
            file.write(json.dumps({"text": " ".join(lines[i : i + 10])}) + "\n")
    vocabulary = train_vocabulary(lines, 300, folder / "tokenizer.model")
    source = TextSource("text", [folder / "text.jsonl"])
    prepare([source], TextGroups(group_size=24), vocabulary, folder / "spans")
    return folder


@pytest.mark.parametrize("name", list(named_configs()))
def test_every_named_size_has_a_gin_file(name: str) -> None:
    gin.parse_config_file(f"gin/models/{name}.gin")
    assert gin_bindings.named_config() == named_config(name)
    gin.parse_config("named_config.dtype = 'bfloat16'")
    assert gin_bindings.named_config() == named_config(name, dtype="bfloat16")


@pytest.mark.parametrize(
    ("name", "rates"),
    [
        ("adamw_pretrain", {0: 0.0, 2000: 1e-4, 100_000: 1e-5}),
        ("adamw_recover", {0: 0.0, 1000: 2e-5, 22_500: 1e-5}),
        ("adamw_finetune", {0: 0.0, 500: 7e-6, 100_000: 7e-6}),
    ],
)
def test_optimizer_files_hold_the_numbers_of_the_original(
    name: str, rates: dict[int, float]
) -> None:
    gin.parse_config_file(f"gin/optim/{name}.gin")
    made = gin_bindings.adamw()
    assert isinstance(made, optimizer.Optimizer)
    for step, rate in rates.items():
        assert float(made.learning_rate(step)) == pytest.approx(rate, rel=1e-4, abs=1e-12)


@pytest.mark.parametrize(
    ("name", "rates"),
    [
        ("adafactor_pretrain", {0: 1e-2, 10_000: 1e-2, 40_000: 5e-3}),
        ("adafactor_finetune", {0: 1e-3, 10_000: 1e-3}),
        ("muon_pretrain", {0: 0.0, 2000: 1e-4, 100_000: 1e-5}),
    ],
)
def test_other_optimizers_stand_in_for_adamw(name: str, rates: dict[int, float]) -> None:
    for file in ("gin/runs/native/pretrain.gin", f"gin/optim/{name}.gin"):
        gin.parse_config_file(file)
    kind = name.partition("_")[0]
    assert str(gin.query_parameter("train.optimizer")) == f"@{kind}()"
    made = getattr(gin_bindings, kind)()(model_of(named_config("tiny")))
    assert isinstance(made, optimizer.Optimizer)
    for step, rate in rates.items():
        assert float(made.learning_rate(step)) == pytest.approx(rate, rel=1e-4, abs=1e-12)


@pytest.mark.parametrize("name", ["pretrain", "finetune", "recover"])
def test_run_files_know_every_name_that_they_bind(name: str) -> None:
    gin.parse_config_file(f"gin/runs/native/{name}.gin")
    gin.parse_config("MODEL_DIR = 'x'\nTOKEN_STORES = ['y']\nVOCABULARY = 'z'")
    assert gin.query_parameter("token_batches.mixture")
    assert gin.query_parameter("adamw.weight_decay") > 0


def test_config_of_a_folder_takes_changes(tmp_path: Path) -> None:
    model_folder.write_metadata(tmp_path, model_of(named_config("tiny")))
    changed = gin_bindings.config_of(str(tmp_path / "checkpoints" / "5"), dropout_rate=0.1)
    assert changed == named_config("tiny", dropout_rate=0.1)


def test_config_of_a_folder_of_another_format_names_the_command(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "openba"}')
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match="openba-convert to_native"):
        gin_bindings.config_of(str(tmp_path))
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(UserError, match=r"model\.gguf is a GGUF file, .*openba-convert to_native"):
        gin_bindings.config_of(str(tmp_path / "model.gguf"))


def test_help_is_quick() -> None:
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "openba_jax.train", "--help"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert time.monotonic() - began < 2
    assert "--gin_file" in done.stdout
    assert "--coordinator_address" in done.stdout


def test_training_imports_nothing_heavy() -> None:
    program = (
        "import sys, openba_jax.training.train_step as _; assert 'gin' not in sys.modules; "
        "import openba_jax.training.gin_bindings; "
        "print({'tensorflow', 'seqio', 'torch', 'clu'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "set()", done.stderr


def test_trains_and_tunes_from_text(text: Path, tmp_path: Path, run_main: Any) -> None:
    shared = [
        f"--gin.TOKEN_STORES=['{text / 'spans'}']",
        f"--gin.VOCABULARY='{text / 'tokenizer.model'}'",
        "--gin.TASK_FEATURE_LENGTHS={'inputs': 32, 'targets': 32}",
        "--gin.MIXTURE_OR_TASK_NAME='ul2'",
        "--gin.BATCH_SIZE=4",
        "--gin.HELD_OUT=4",
        "--gin.EVAL_STEPS=1",
        "--gin.DROPOUT_RATE=0.0",
        "--gin.TRAIN_STEPS=3",
    ]
    done = run_main(
        "--gin_file=gin/models/tiny.gin",
        "--gin_file=gin/runs/native/pretrain.gin",
        f"--gin.MODEL_DIR='{tmp_path / 'model'}'",
        *shared,
    )
    assert done.returncode == 0, done.stderr
    assert "tensorflow" not in done.stderr.lower()
    loaded = training_state.load_model(tmp_path / "model")
    assert loaded.model.config == named_config("tiny")
    assert loaded.tokenizer is not None
    assert "BATCH_SIZE = 4" in (tmp_path / "model" / "config.gin").read_text()
    before = metrics.read(tmp_path / "model" / "metrics.jsonl")[-1]
    assert (before["step"], before["split"]) == (3, "eval")

    done = run_main(
        "--gin_file=gin/runs/native/finetune.gin",
        f"--gin.INITIAL_CHECKPOINT_PATH='{tmp_path / 'model' / 'checkpoints' / '3'}'",
        f"--gin.MODEL_DIR='{tmp_path / 'tuned'}'",
        *shared,
    )
    assert done.returncode == 0, done.stderr
    after = metrics.read(tmp_path / "tuned" / "metrics.jsonl")[0]
    assert (after["step"], after["loss"]) == (0, before["loss"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--gin.trian.seed=3"], "trian"),
        ([], "set to `%gin.REQUIRED`"),
        (
            [
                "--gin.MODEL_DIR='/tmp/never'",
                "--gin.TOKEN_STORES=['/nowhere']",
                "--gin.VOCABULARY='/nowhere.model'",
            ],
            "/nowhere.model cannot be read",
        ),
    ],
)
def test_mistakes_end_in_one_sentence(arguments: list[str], message: str, run_main: Any) -> None:
    done = run_main(
        "--gin_file=gin/models/tiny.gin",
        "--gin_file=gin/runs/native/pretrain.gin",
        *arguments,
    )
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert message in line
