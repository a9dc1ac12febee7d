"""What users get wrong, and what they are told."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

pytest.importorskip("t5x.models", reason="T5X is not importable; see docs/t5x.md")

import seqio
import t5x_toy
from t5x import optimizers, utils

from openba_jax.checkpoints import training_state
from openba_jax.checkpoints.formats.t5x import T5X
from openba_jax.checkpoints.registry import open_checkpoint
from openba_jax.errors import UserError
from openba_jax.models.registry import model_of
from openba_jax.t5x import checkpoints, decoding, pruning, vocabulary
from openba_jax.t5x.partitioner import Partitioner
from openba_jax.t5x.requirement import require_t5x

REPOSITORY = Path(__file__).resolve().parent.parent.parent


def test_t5x_missing():
    program = (
        "import sys; sys.modules['t5x'] = None\n"
        "from openba_jax.errors import UserError\n"
        "try:\n    import openba_jax.t5x\n"
        "except UserError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert "requirements/t5x.txt" in done.stdout


def test_t5x_of_an_unknown_version(monkeypatch):
    require_t5x()
    monkeypatch.setattr(optimizers.OptaxWrapper, "derive_logical_axes", lambda optimizer: None)
    with pytest.raises(UserError, match=r"derive_logical_axes has no param_logical_axes.*cc342d4"):
        require_t5x()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--gin_file=gin/models/tiny.gin"], "gin: TOKEN_STORES is missing; give --gin.TOKEN_"),
        (["--gin.TOKEN_STORES=[]", "--gin.VOCABULARY='x'"], "give a file of gin/models"),
        (
            ["--gin.TOKEN_STORE=1", "--gin.TOKEN_STORES=[]", "--gin.VOCABULARY=''"],
            "did you mean TOKEN_STORES?",
        ),
    ],
    ids=["missing", "no_model", "misspelt"],
)
def test_binaries_tell_mistakes_in_one_sentence(tmp_path, arguments, message):
    done = subprocess.run(
        [
            *(sys.executable, "-m", "t5x.train", "--gin_search_paths=."),
            *("--gin_file=gin/runs/t5x/pretrain.gin", f"--gin.MODEL_DIR='{tmp_path}'"),
            *arguments,
        ],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: ")
    assert message in last
    assert "Traceback" not in done.stderr


def test_vocabularies_differ(monkeypatch):
    theirs = seqio.PassThroughVocabulary(80, eos_id=1)
    monkeypatch.setattr(utils, "get_vocabulary", lambda cfg: (theirs, theirs))
    cfg = utils.DatasetConfig("toy", {}, "train", 8, True, 0)
    with pytest.raises(UserError, match=r"task toy has the vocabulary .*VOCABULARY"):
        vocabulary.verify_vocabularies(cfg, t5x_toy.model())
    with pytest.raises(UserError, match="80 tokens and the model 64 rows"):
        vocabulary.verify_vocabularies(cfg, t5x_toy.model(vocabulary=theirs))


def test_a_checkpoint_of_another_depth(tmp_path):
    config = t5x_toy.config()
    _, theirs = t5x_toy.first_models(tmp_path)
    assert checkpoints.checkpoint(str(theirs), config) == str(theirs / "checkpoint_0")
    for changes in ({"decoder_layers": 3}, {"mlp_dim": 32}, {"tie_embeddings": False}):
        with pytest.raises(UserError, match=r"of shape .* the model asks for .*gin file"):
            checkpoints.checkpoint(str(theirs), config.replace(**changes))
    with pytest.raises(UserError, match="the model asks for"):
        checkpoints.model_dir(str(theirs), config.replace(decoder_layers=1))
    new = str(tmp_path / "new")
    assert checkpoints.model_dir(new, config) == new
    assert checkpoints.model_dir("new", config) == str(Path("new").absolute())
    with pytest.raises(UserError, match="mount the bucket"):
        checkpoints.model_dir("gs://bucket/new", config)
    with pytest.raises(UserError, match="no T5X checkpoint"):
        checkpoints.checkpoint(new, config)


def test_what_only_adamw_can(tmp_path):
    strange = open_checkpoint(t5x_toy.first_models(tmp_path)[0])
    strange.optimizer = [None] * 6 + [{"count": np.int32(1)}]
    (tmp_path / "strange").mkdir()
    T5X().write(strange, tmp_path / "strange")
    with pytest.raises(UserError, match="adamw"):
        t5x_toy.read(tmp_path / "strange")
    with pytest.raises(UserError, match="nothing is no folder"):
        t5x_toy.read(tmp_path / "nothing")


def test_small_mistakes(tmp_path):
    from openba_jax.pruning.stages import Stage

    with pytest.raises(UserError, match="cuts nothing"):
        pruning.pruned("x", str(tmp_path / "y"), Stage("empty"))
    with pytest.raises(UserError, match="NUM_PARTITIONS is 3"):
        _ = Partitioner(num_partitions=3).mesh
    with pytest.raises(UserError, match=r"num_decodes is 4.*beam_search"):
        decoding.sample(inputs=None, cache=None, tokens_to_logits=None, eos_id=1, num_decodes=4)
    (tmp_path / "checkpoint_1").mkdir()
    (tmp_path / "checkpoint_1/checkpoint").write_bytes(b"")
    with pytest.raises(UserError, match="has no tokenizer; name one"):
        checkpoints.tokenizer_of(str(tmp_path))


def test_axes_that_the_mesh_does_not_divide_stay_whole():
    from jax.sharding import Mesh, PartitionSpec

    partitioner = Partitioner(num_partitions=1)
    devices = jax.sharding.AbstractMesh((1, 8), ("data", "model"))
    assert isinstance(partitioner.mesh, Mesh)
    partitioner.mesh = devices
    array = jax.ShapeDtypeStruct((16, 20, 4), "float32")
    spec = PartitionSpec(None, "model", None)
    assert partitioner._dividing(spec, array) == PartitionSpec(None, None, None)
    array = jax.ShapeDtypeStruct((16, 40, 4), "float32")
    assert partitioner._dividing(spec, array) == spec


def test_folders_keep_what_lies_beside(tmp_path):
    model = model_of(t5x_toy.config(dropout_rate=0.25))
    params = model.init(jax.random.key(0))
    training_state.create(tmp_path / "ours", model, params, plan={"a": 1})
    t5x_toy.move(tmp_path / "ours", tmp_path / "theirs", "t5x")
    found = open_checkpoint(tmp_path / "theirs")
    assert found.model == model
    assert json.loads(found.plan) == {"a": 1}
