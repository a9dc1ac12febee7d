"""All commands, met as a newcomer meets them: one page or one sentence, and the right exit code.

Each case runs in a fork of one process that has imported what is heavy; how quick help is, and what
it imports, is for test_mains.
"""

from __future__ import annotations

import configparser
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from openba_jax.__main__ import COMMANDS, page, summary
from openba_jax.checkpoints.formats.huggingface import HuggingFace
from openba_jax.checkpoints.formats.megatron import Megatron
from openba_jax.checkpoints.formats.t5x import T5X
from openba_jax.checkpoints.registry import open_checkpoint
from openba_jax.cli import gin_files
from openba_jax.version import __version__

REPOSITORY = Path(__file__).resolve().parents[2]

FORKS = """
import json, os, sys, tempfile, traceback, warnings
import openba_jax.__main__ as umbrella
import openba_jax.search.run, openba_jax.serving.loading, openba_jax.study.run
import openba_jax.training.gin_bindings

warnings.simplefilter("ignore")  # JAX has threads; its backends are not there yet.
ended = []
for argv in json.load(sys.stdin):
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        if not (child := os.fork()):
            os.dup2(out.fileno(), 1), os.dup2(err.fileno(), 2)
            sys.stdin = open(os.devnull)
            code = 1
            try:
                code = umbrella.main(argv)
            except SystemExit as end:
                code = end.code or 0
            except BaseException:
                traceback.print_exc()
            sys.stdout.flush(), sys.stderr.flush()
            os._exit(code)
        _, status = os.waitpid(child, 0)
        out.seek(0), err.seek(0)
        texts = [file.read().decode() for file in (out, err)]
        ended.append([os.waitstatus_to_exitcode(status), *texts])
json.dump(ended, sys.stdout)
"""

OURS = [name for name in COMMANDS if name != "lm-eval"]  # It has the harness's own flags.
BY_GIN = {
    name: next(iter(gin_files.files_for(f"openba-{name}")))
    for name in ("train", "eval", "infer", "chat", "serve", "pipeline", "study", "search", "sweep")
}


class Ended(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


Run = Callable[[Sequence[Sequence[str]]], list[Ended]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs commands, one after the other, in an empty folder."""

    def forked(cases: Sequence[Sequence[str]]) -> list[Ended]:
        done = subprocess.run(
            [sys.executable, "-c", FORKS],
            input=json.dumps([list(case) for case in cases]),
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY), "TERM": "dumb"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return [Ended(*each) for each in json.loads(done.stdout)]

    return forked


def _sentence(ended: Ended, case: Sequence[str]) -> str:
    """The one sentence of a command that refused something."""
    told = " ".join(case), ended
    assert ended.code == 2, told
    assert ended.out == "", told
    errors = [line for line in ended.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, told
    assert "Traceback" not in ended.err, told
    return errors[0]


def test_every_installed_command_is_one_of_openba() -> None:
    settings = configparser.ConfigParser()
    settings.read(REPOSITORY / "setup.cfg", encoding="utf-8")
    lines = settings["options.entry_points"]["console_scripts"].strip().splitlines()
    installed = dict(line.split(" = ") for line in lines)
    assert installed.pop("openba") == "openba_jax.__main__:run"
    assert installed == {f"openba-{name}": f"openba_jax.{m}:run" for name, m in COMMANDS.items()}


def test_the_list_fits_a_terminal() -> None:
    lines = page().splitlines()
    assert max(map(len, lines)) <= 100
    for name in COMMANDS:
        assert re.fullmatch(r"[A-Z].{20,}[.:]", summary(name)), name
        assert any(line.split()[:1] == [name] for line in lines)


def test_openba_by_itself(tmp_path: Path) -> None:
    code = (
        "import sys, openba_jax.__main__ as main\n"
        "code = main.main(sys.argv[1:])\n"
        "heavy = {'jax', 'numpy', 'absl.flags'} & set(sys.modules) - {'absl.flags'}\n"
        "sys.exit(f'imported {heavy}' if heavy else code)\n"
    )
    for words, expected, text in (
        ([], 0, page()),
        (["help"], 0, page()),
        (["--help"], 0, page()),
        (["-h"], 0, page()),
        (["--version"], 0, f"openba_jax {__version__}\n"),
        (["trian"], 2, ""),
    ):
        done = subprocess.run(
            [sys.executable, "-c", code, *words],
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stdout) == (expected, text), done.stderr
    assert done.stderr == "error: there is no command trian; did you mean train?\n"


def test_help_version_and_mistakes_of_every_command(run: Run) -> None:
    pages = [(name, word) for name in OURS for word in ("--help", "-h")]
    pages.append(("prune", "--helpfull"))
    versions = [(name, "--version") for name in COMMANDS]
    alone = [(name,) for name in OURS if name != "sizes"]
    wrong = [(name, "--no_such_flag=1") for name in OURS]
    macros = [
        (name, f"--gin_file={file}", "--gin.MODLE_DIR='x'", "--gin.OUTPUT_DIRR='x'")
        for name, file in BY_GIN.items()
    ]
    ended = iter(run([*pages, *versions, *alone, *wrong, *macros, ("help", "train")]))
    for case in pages:
        code, out, err = next(ended)
        assert (code, err) == (0, ""), case
        assert out.startswith(summary(case[0])), case
        assert "\nflags:\n" in out or case[1] == "--helpfull", case
    for case in versions:
        assert next(ended) == (0, f"openba_jax {__version__}\n", ""), case
    for case in alone:
        assert len(_sentence(next(ended), case)) > 40
    for case in wrong:
        expected = f"'no_such_flag'; openba-{case[0]} --help shows the flags."
        assert _sentence(next(ended), case).endswith(expected)
    for case in macros:
        assert re.search("has a macro MODLE_DIR(;|.$)", _sentence(next(ended), case)), case
    assert next(ended).out.startswith(summary("train"))


@pytest.fixture(scope="module")
def folders(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of all kinds, among them `model`, the only one that most commands can use."""
    root = tmp_path_factory.mktemp("kinds")
    shutil.copytree(folder, root, dirs_exist_ok=True)
    opened = open_checkpoint(root / "model")
    for name, writer in {
        "huggingface": HuggingFace(),
        "megatron": Megatron(1),
        "t5x": T5X(),
    }.items():
        (root / name).mkdir()
        writer.write(opened, root / name)
    shutil.copytree(root / "model", root / "run/models/model")
    (root / "run/pipeline.gin").write_text("")
    (root / "empty").mkdir()
    shutil.copytree(root / "model", root / "begun", ignore=shutil.ignore_patterns("checkpoints"))
    return root


FOREIGN = {"huggingface": "Hugging Face", "megatron": "Megatron", "t5x": "T5X"}
NONE = {
    "run": r"a folder of openba-pipeline; the checkpoints in it are .*run/models/model\.$",
    "empty": "is no checkpoint that is known",
    "nowhere": "is no folder or file",
    "spans": "is a token store; name a checkpoint",
    "tokenizer.model": "is a tokenizer; name a checkpoint",
    "begun": "(is a model folder without a finished checkpoint; name a|begun holds no) checkpoint",
}


def test_wrong_folders_are_met_with_help(run: Run, folders: Path) -> None:
    native = "--gin_file=gin/runs/native"
    training = (
        *("train", f"{native}/recover.gin", f"--gin.TOKEN_STORES='{folders}/spans'"),
        *(f"--gin.VOCABULARY='{folders}/tokenizer.model'", "--gin.BATCH_SIZE=2"),
        *("--gin.TASK_FEATURE_LENGTHS={'inputs': 32, 'targets': 32}", "--gin.TRAIN_STEPS=1"),
    )

    def of_model_folders(place: Path) -> list[list[str]]:
        model = f"--gin.MODEL_DIR='{place}'"
        return [
            ["infer", f"{native}/infer.gin", model, "--gin.PROMPTS='a'"],
            ["eval", f"{native}/eval.gin", model, f"--gin.QUESTIONS='{folders}/questions'"],
            ["chat", f"{native}/chat.gin", model],
            ["serve", f"{native}/serve.gin", f"--gin.MODEL_DIRS=['{place}']", "--gin.PORT=0"],
            [*training, "--gin.MODEL_DIR='out'", f"--gin.INITIAL_CHECKPOINT_PATH='{place}'"],
        ]

    def of_checkpoints(place: Path) -> list[list[str]]:
        return [
            ["prune", f"--input={place}", "--output=out", "--mlp=8"],
            ["prune", f"--input={place}", "--output=out", "--mlp=8", "--dry_run"],
            ["score", f"--input={place}", "--output=out.npz", "--method=magnitude"],
            ["convert", "to_native", f"--input={place}", "--output=out"],
        ]

    cases, patterns = [], []
    for name, kind in FOREIGN.items():
        command = f"`openba-convert to_native --input={folders / name} --output=FOLDER"
        resumed = [*training, f"--gin.MODEL_DIR='{folders / name}'"]
        resumed.append(f"--gin.INITIAL_CHECKPOINT_PATH='{folders}/model'")
        for case in (*of_model_folders(folders / name), resumed):
            cases.append(case)
            patterns.append(f"{folders / name} is a {kind} folder .*{re.escape(command)}")
    for name, pattern in NONE.items():
        used = [*of_model_folders(folders / name)[::4], *of_checkpoints(folders / name)[::2]]
        cases += used
        patterns += [pattern] * len(used)
    ended = run(cases)
    for case, each, pattern in zip(cases, ended, patterns, strict=True):
        assert re.search(pattern, _sentence(each, case)), (case, each.err)
