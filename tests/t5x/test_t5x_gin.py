"""Every gin file with every other that it is for, checked by gin, the model built abstractly."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from flax import core, traverse_util
from jax.sharding import PartitionSpec as P

pytest.importorskip("t5x.models", reason="T5X is not importable; see docs/t5x.md")

import t5x.eval
import t5x.export_lib
import t5x.infer
import t5x.train
from t5x import decoding as t5x_decoding
from t5x import utils

import gin
from openba_jax.data.vocabularies.registry import open_vocabulary
from openba_jax.errors import UserError
from openba_jax.inspect import sizes
from openba_jax.models.counting import parameter_count
from openba_jax.models.registry import model_of, named_config
from openba_jax.objectives.mixture import get_mixture
from openba_jax.t5x import decoding, mistakes
from openba_jax.t5x.partitioner import Partitioner
from openba_jax.t5x.vocabulary import verify_mixture

assert sizes
REPOSITORY = Path(__file__).resolve().parent.parent.parent
TOKENIZER = REPOSITORY / "tests/golden/tokenizers/llama3/tokenizer.json"
MODELS = sorted(
    path.stem
    for path in (REPOSITORY / "gin/models").glob("*.gin")
    if model_of(named_config(path.stem)).layout == "encoder_decoder"
)
OBJECTIVES = sorted(
    path.stem
    for path in (REPOSITORY / "gin/objectives").glob("*.gin")
    if get_mixture(path.stem).layout == "encoder_decoder"
)
OPTIMIZERS = sorted(path.stem for path in (REPOSITORY / "gin/optim").glob("*.gin"))

TRAIN_MACROS = {
    "pretrain": {},
    "finetune": {"INITIAL_CHECKPOINT_PATH": "'x'", "MODEL_CONFIG": "@named_config()"},
    "prune_and_recover": {
        "SOURCE_PATH": "'x'",
        "PRUNED_PATH": "'y'",
        "MODEL_CONFIG": "@named_config()",
    },
}


@pytest.fixture(autouse=True)
def clean_gin(monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    gin.add_config_file_search_path(str(REPOSITORY))
    with gin.unlock_config():
        gin.clear_config()
        yield
        gin.clear_config()


def parse(monkeypatch, main, files, macros):
    """As T5X's binary `main` does it."""
    monkeypatch.setitem(sys.modules, "__main__", main)
    with gin.unlock_config():
        gin.clear_config()
        gin.parse_config_files_and_bindings(
            [f"gin/{file}.gin" for file in files],
            [f"{name} = {value}" for name, value in macros.items()],
            finalize_config=True,
        )


@gin.configurable
def asks_for_a_macro(value):
    return value


def macro(name):
    """The value of a macro, its references resolved."""
    with gin.unlock_config():
        gin.parse_config(f"asks_for_a_macro.value = %{name}")
    return asks_for_a_macro()


def abstract_state(model):
    """Shapes and axes of the training state; nothing is allocated."""
    return utils.TrainStateInitializer(
        model.optimizer_def, model.get_initial_variables, {}, Partitioner(num_partitions=1)
    )


@pytest.mark.parametrize("run", TRAIN_MACROS)
@pytest.mark.parametrize("model", MODELS)
def test_every_combination_loads(monkeypatch, tmp_path, run, model):
    everything = {
        **TRAIN_MACROS[run],
        "MODEL_DIR": f"'{tmp_path}'",
        "TOKEN_STORES": "['store']",
        "VOCABULARY": "'tokenizer.model'",
    }
    assert len(OBJECTIVES) > 1
    assert len(OPTIMIZERS) > 1
    for objective in OBJECTIVES:
        for optim in OPTIMIZERS:
            files = [f"models/{model}", f"runs/t5x/{run}"]
            files += [f"objectives/{objective}", f"optim/{optim}"]
            parse(monkeypatch, t5x.train, files, everything)
            built = macro("MODEL")
            assert built.config.replace(
                dropout_rate=0.0, attention_dropout_rate=0.0
            ) == named_config(model)
            assert built.optimizer_def.learning_rate(0) is not None
            assert isinstance(macro("TASK_FEATURE_LENGTHS"), dict)
    initializer = abstract_state(built)
    shapes = initializer.global_train_state_shape.params
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == parameter_count(built.model)
    specs = initializer.train_state_axes
    assert specs.params["decoder"]["layers"]["mlp"]["wo"]["kernel"] == P(None, "model", None)
    moments = traverse_util.flatten_dict(core.unfreeze(specs.param_states[1].mu))
    embeddings = [spec for path, spec in moments.items() if path[-1] == "embedding"]
    assert embeddings
    assert set(embeddings) == {P("model", None)}


@pytest.mark.parametrize("run", ["pretrain_decoder", "finetune_decoder"])
def test_decoders_load(monkeypatch, tmp_path, run):
    macros = {
        "MODEL_DIR": f"'{tmp_path}'",
        "TOKEN_STORES": "['store']",
        "VOCABULARY": f"'{TOKENIZER}'",
        **TRAIN_MACROS[run.removesuffix("_decoder")],
    }
    decoders = sorted(
        path.stem
        for path in (REPOSITORY / "gin/models").glob("*.gin")
        if model_of(named_config(path.stem)).layout == "decoder_only"
    )
    assert len(decoders) > 2
    for model in decoders:
        parse(monkeypatch, t5x.train, [f"models/{model}", f"runs/t5x/{run}"], macros)
        built = macro("MODEL")
        assert built.config.replace(dropout_rate=0.0, attention_dropout_rate=0.0) == named_config(
            model
        )
        assert get_mixture(macro("MIXTURE_OR_TASK_NAME")).layout == "decoder_only"
        assert built.stop_ids == open_vocabulary(TOKENIZER).stop_ids
    specs = abstract_state(built).train_state_axes
    assert specs.params["decoder"]["layers"]["mlp"]["wo"]["kernel"] == P(None, "model", None)
    assert specs.params["token_embedder"]["embedding"] == P("model", None)


def test_a_mixture_for_other_models_is_refused(monkeypatch):
    files = ["models/tiny_llama", "runs/t5x/pretrain_decoder", "objectives/ul2"]
    needed = {"MODEL_DIR": "'x'", "TOKEN_STORES": "[]", "VOCABULARY": f"'{TOKENIZER}'"}
    parse(monkeypatch, t5x.train, files, needed)
    cfg = utils.DatasetConfig("ul2", {}, "train", 8, True, 0)
    with pytest.raises(UserError, match="the mixture ul2 is for models of the kind"):
        verify_mixture(cfg, macro("MODEL"))
    cfg = utils.DatasetConfig("causal_lm", {}, "train", 8, True, 0)
    verify_mixture(cfg, macro("MODEL"))
    with gin.unlock_config():
        gin.parse_config("named_config.vocab_size = 32")
    with pytest.raises(UserError, match="the embedding has 32 rows"):
        verify_mixture(cfg, macro("MODEL"))


def test_models_without_an_encoder_are_refused(monkeypatch):
    files = ["models/tiny_llama", "runs/t5x/pretrain", "runs/t5x/native_batches"]
    needed = {"MODEL_DIR": "'x'", "TOKEN_STORES": "[]", "VOCABULARY": "'x'"}
    parse(monkeypatch, t5x.train, files, needed)
    with pytest.raises(
        UserError, match=r"family llama has no encoder; train it with gin/runs/t5x/decoder\.gin"
    ):
        macro("MODEL")


def test_the_files_may_come_in_any_order(monkeypatch):
    files = ["runs/t5x/pretrain", "runs/t5x/native_batches", "objectives/ul2", "models/small"]
    needed = {"MODEL_DIR": "'x'", "TOKEN_STORES": "[]", "VOCABULARY": "'x'"}
    parse(monkeypatch, t5x.train, files, needed)
    assert macro("MODEL").config.embed_dim == named_config("small").embed_dim


BINARIES = {
    "train": t5x.train,
    "infer": t5x.infer,
    "eval": t5x.eval,
    "export": t5x.export_lib,
}
DOCUMENTED = [REPOSITORY / "docs/t5x.md", *sorted((REPOSITORY / "gin/runs/t5x").glob("*.gin"))]


@pytest.mark.parametrize("file", DOCUMENTED, ids=lambda file: file.name)
def test_documented_commands(monkeypatch, file):
    text = re.sub(r"\\\n#? *", " ", file.read_text(encoding="utf-8"))
    commands = re.findall(r"^(?:# )?python -m t5x\.(\w+) (.*)$", text, re.MULTILINE)
    assert commands or file.name in ("train.gin", "native_batches.gin", "decoder.gin")
    for binary, arguments in commands:
        flags = [argument.split("=", 1) for argument in shlex.split(arguments)]
        files = [value[4:-4] for flag, value in flags if flag == "--gin_file"]
        macros = {flag[6:]: value for flag, value in flags if flag.startswith("--gin.")}
        bindings = [f"{name} = {value}" for name, value in macros.items()]
        monkeypatch.setattr(mistakes, "_command_line", lambda bindings=bindings: bindings)
        parse(monkeypatch, BINARIES[binary], files, macros)


def test_the_documented_search_path_holds_the_gin_files():
    text = (REPOSITORY / "docs/t5x.md").read_text(encoding="utf-8")
    (program,) = re.findall(r"\$\(python -c '(.*?)'\)", text)
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert (Path(done.stdout.strip()) / "gin/runs/t5x/train.gin").is_file()


def test_decoding_functions_can_be_named(monkeypatch):
    required = {"MODEL_DIR": "'x'", "OUTPUT_DIR": "'x'"}
    for name, function in {
        "openba_decoding.sample": decoding.sample,
        "openba_decoding.beam_search": decoding.beam_search,
        "t5x_decoding.temperature_sample": t5x_decoding.temperature_sample,
        "t5x_decoding.beam_search": t5x_decoding.beam_search,
    }.items():
        bindings = {**required, "DECODE_FN": f"@{name}"}
        parse(monkeypatch, t5x.infer, ["runs/t5x/infer"], bindings)
        assert macro("DECODE_FN").__wrapped__ is function


def macros_of(file):
    """Names of the macros that a gin file and what it includes set."""
    text = file.read_text(encoding="utf-8")
    included = re.findall(r"^include '(gin/runs/.*)'", text, re.MULTILINE)
    found = set(re.findall(r"^([A-Z_]+) =", text, re.MULTILINE))
    return found.union(*(macros_of(REPOSITORY / name) for name in included))


@pytest.mark.parametrize("run", ["pretrain", "finetune", "infer", "eval"])
def test_macros_have_the_names_of_the_native_runs(run):
    native, theirs = (
        macros_of(REPOSITORY / f"gin/runs/{runner}/{run}.gin") for runner in ("native", "t5x")
    )
    assert len(native & theirs) > 4
    assert native - theirs <= mistakes.INSTEAD.keys()


@pytest.mark.parametrize(
    ("binding", "message"),
    [
        ("TRIAN_STEPS = 5", "did you mean TRAIN_STEPS"),
        ("MESH_SHAPE = (1, 1, 1)", "NUM_PARTITIONS"),
        ("EVAL_STORES = []", r"native_batches\.gin"),
        ("NOBODY_READS_ME = 1", "leave it out"),
    ],
)
def test_macros_that_nothing_reads(monkeypatch, binding, message):
    needed = {"MODEL_DIR": "'x'", "TOKEN_STORES": "[]", "VOCABULARY": "'x'"}
    monkeypatch.setattr(mistakes, "_command_line", lambda: [binding])
    with pytest.raises(UserError, match=message):
        parse(monkeypatch, t5x.train, ["models/tiny", "runs/t5x/pretrain"], needed)


@pytest.mark.parametrize(
    ("run", "main"), [("infer", t5x.infer), ("eval", t5x.eval), ("export", t5x.export_lib)]
)
def test_the_other_binaries(monkeypatch, run, main):
    for model in MODELS:
        bindings = {
            "MODEL_DIR": "'x'",
            "OUTPUT_DIR": "'x'",
            "MODEL_CONFIG": "@named_config()",
            "VOCABULARY": "'x'",
        }
        if run != "infer":
            bindings["TASK_FEATURE_LENGTHS"] = "{'inputs': 8, 'targets': 8}"
        if run == "eval":
            bindings |= {"MIXTURE_OR_TASK_NAME": "'ul2'", "TOKEN_STORES": "[]", "HELD_OUT": "1"}
        parse(monkeypatch, main, [f"models/{model}", f"runs/t5x/{run}"], bindings)
        built = macro("MODEL")
        assert built.config == named_config(model)
        shapes = jax.eval_shape(built.get_initial_variables, jax.random.key(0), {})
        expected = model_of(named_config(model)).abstract_params()
        assert jax.tree.structure(shapes["params"].unfreeze()) == jax.tree.structure(expected)


def test_d_ul2_needs_batches_whose_rates_move(monkeypatch, tmp_path):
    from openba_jax.t5x.data import fixed_mixture

    assert fixed_mixture("ul2") == "ul2"
    assert fixed_mixture("a_users_own") == "a_users_own"
    with pytest.raises(UserError, match="native_batches"):
        fixed_mixture("d_ul2")


def test_config_of_reads_what_lies_beside(tmp_path):
    from openba_jax.t5x.checkpoints import config_of

    (tmp_path / "checkpoint_5/state").mkdir(parents=True)
    (tmp_path / "checkpoint_5/state/_METADATA").write_text("{}")
    with pytest.raises(UserError, match=r"config\.json"):
        config_of(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps(named_config("tiny").to_dict()))
    found = config_of(str(tmp_path / "checkpoint_5"), dropout_rate=0.3)
    assert found == named_config("tiny", dropout_rate=0.3)
