"""The main: any kind of checkpoint into any other, and its messages."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver

from openba_jax import convert
from openba_jax.checkpoints import training_state
from openba_jax.checkpoints.checkpoint import all_leaves, load_state, load_tree
from openba_jax.checkpoints.files.safetensors_file import read_safetensors, write_safetensors
from openba_jax.checkpoints.registry import detect, open_checkpoint
from openba_jax.data.vocabulary_training import train_vocabulary
from openba_jax.errors import UserError
from openba_jax.models.openba.widths import v1_width
from openba_jax.pruning.plan import Plan


@pytest.fixture(scope="module", autouse=True)
def defined_flags():
    if "tensor_parallel" not in flags.FLAGS:
        convert.define_flags()
    flags.FLAGS.mark_as_parsed()


def run(command, **values):
    with flagsaver.flagsaver(
        **{name: str(v) if isinstance(v, Path) else v for name, v in values.items()}
    ):
        convert.main(["openba-convert", command])


def contents(folder):
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.fixture
def golden(golden_dir):
    return golden_dir("megatron_ckpt") / "v1_style"


def test_a_tour_of_all_formats_is_exact(golden, tmp_path, capsys):
    kinds = ["huggingface", "native", "t5x", "megatron"]
    last = golden
    for kind in kinds:
        target = tmp_path / kind
        run(f"to_{kind}", input=last, output=target, tensor_parallel=4, max_shard_size="200KB")
        assert detect(target).name == kind
        last = target
    capsys.readouterr()
    run("verify", input=golden, other=last, prompt=["5,6,7,1"])
    report = capsys.readouterr().out
    assert "largest difference of a weight: 0\n" in report
    assert "largest difference of a logit: 0  '5,6,7,1'" in report


def test_cast_warns(golden_dir, tmp_path, capsys):
    source = tmp_path / "source"
    source.mkdir()
    golden = golden_dir("model_b")
    (source / "config.json").write_text((golden / "config.json").read_text())
    tensors = read_safetensors(golden / "model.safetensors")
    arrays = {name: np.array(tensor.read()) for name, tensor in tensors.items()}
    arrays["decoder.final_layernorm.bias"][:2] = [1e6, np.nan]
    plan = {name: (array.shape, array.dtype) for name, array in arrays.items()}
    write_safetensors(source / "model.safetensors", plan, lambda name: [lambda: arrays[name]])
    run("to_native", input=source, output=tmp_path / "half", dtype="float16")
    errors = capsys.readouterr().err
    where = f"{source}/model.safetensors: tensor decoder.final_layernorm.bias"
    assert f"{where} holds 1 NaN or infinite values" in errors
    assert f"{where} holds 1 values that overflow float16" in errors
    assert open_checkpoint(tmp_path / "half").model.config.param_dtype == "float16"
    assert json.loads((tmp_path / "half" / "config.json").read_text())["param_dtype"] == "float16"


@pytest.mark.parametrize(
    ("given", "types"),
    [
        ({}, ("float16", "float16")),
        ({"dtype": "float32"}, ("float32", "float32")),
        ({"compute_dtype": "bfloat16"}, ("float16", "bfloat16")),
        ({"dtype": "float32", "compute_dtype": "bfloat16"}, ("float32", "bfloat16")),
    ],
    ids=["none", "dtype", "compute_dtype", "both"],
)
@pytest.mark.parametrize("kind", ["native", "t5x"])
def test_types_of_parameters_and_of_computation(golden, tmp_path, given, types, kind):
    # The original's converter leaves float16, in which nobody should train.
    run(f"to_{kind}", input=golden / "hf_expected", output=tmp_path / "out", **given)
    fields = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (fields["param_dtype"], fields["dtype"]) == types
    written = open_checkpoint(tmp_path / "out")
    # The bias of the logits is in float32 there.
    expected = {types[0]} if "dtype" in given else {"float16", "float32"}
    assert {written.dtype(leaf).name for leaf in written.model.axes.leaves()} == expected


@pytest.mark.parametrize("kind", ["huggingface", "megatron"])
def test_formats_without_a_type_of_computation_take_that_of_the_parameters(golden, tmp_path, kind):
    run(f"to_{kind}", input=golden, output=tmp_path / "out", dtype="bfloat16")
    config = open_checkpoint(tmp_path / "out").model.config
    assert (config.param_dtype, config.dtype) == ("bfloat16", "bfloat16")


def test_the_state_of_the_optimizer_is_kept_where_it_is_asked_for(golden, tmp_path, capsys):
    source = open_checkpoint(golden)
    params = load_tree(source)
    moments = {"count": np.int32(9), "mu": params, "nu": params}
    state = [None, moments, {"inner_state": None}, {"count": np.int32(9)}]
    training_state.create(
        tmp_path / "run", source.model, params, opt_state=state, step=9, data={"tokens": 5}
    )
    run("to_t5x", input=tmp_path / "run", output=tmp_path / "t5x", keep_optimizer=True)
    run(
        "to_native",
        input=tmp_path / "t5x",
        output=tmp_path / "kept",
        keep_optimizer=True,
        dtype="bfloat16",
    )
    assert capsys.readouterr().out.count("written, with optimizer state, at step 9\n") == 2
    kept = open_checkpoint(tmp_path / "kept")
    types = {leaf.slot: kept.dtype(leaf).name for leaf in all_leaves(kept)}
    assert types == {"": "bfloat16", "1/mu": "float32", "1/nu": "float32"}
    moved = load_state(kept)["opt_state"][1]
    assert moved["count"] == 9
    for name in ("mu", "nu"):
        jax.tree.map(np.testing.assert_array_equal, moved[name], params)
    for name in ("run", "t5x"):
        run("to_native", input=tmp_path / name, output=tmp_path / f"{name}_alone")
        alone = open_checkpoint(tmp_path / f"{name}_alone")
        assert (alone.optimizer, alone.data, alone.step) == (None, {}, 9)
    with pytest.raises(UserError, match="t5x_alone has no optimizer state; convert without"):
        run(
            "to_t5x",
            input=tmp_path / "t5x_alone",
            output=tmp_path / "no",
            keep_optimizer=True,
        )
    with pytest.raises(UserError, match="legacy format is written without optimizer state"):
        run(
            "to_t5x",
            input=tmp_path / "run",
            output=tmp_path / "no",
            keep_optimizer=True,
            t5x_format="legacy",
        )
    assert not (tmp_path / "no").exists()


def test_a_folder_of_t5x_without_configuration_is_read_with_a_warning(golden, tmp_path, caplog):
    run("to_t5x", input=golden, output=tmp_path / "t5x")
    config = tmp_path / "t5x" / "config.json"
    beside = tmp_path / "config.json"
    config.rename(beside)
    with caplog.at_level("WARNING", logger="absl"):
        run("to_native", input=tmp_path / "t5x", output=tmp_path / "guessed")
    assert "t5x has no config.json" in caplog.text
    assert "rope_theta=10000.0" in caplog.text
    caplog.clear()
    with caplog.at_level("WARNING", logger="absl"):
        run(
            "to_native",
            input=tmp_path / "t5x",
            output=tmp_path / "told",
            model_config=beside,
        )
    assert "config.json" not in caplog.text
    assert (tmp_path / "told" / "config.json").read_text() == beside.read_text()


@pytest.mark.parametrize("style", ["v1", "v2"])
def test_the_rule_of_the_width_is_kept_on_the_way(golden_dir, tmp_path, capsys, style):
    last = golden_dir("megatron_ckpt") / f"{style}_style" / "hf_expected"
    theirs = json.loads((last / "config.json").read_text())["ffn_hidden_size"]
    for kind in ("native", "t5x", "megatron", "huggingface"):
        run(f"to_{kind}", input=last, output=tmp_path / kind)
        last = tmp_path / kind
    assert capsys.readouterr().out.count(f"the rule of OpenBA {style}") == 2
    ours = json.loads((last / "config.json").read_text())["ffn_hidden_size"]
    if style == "v1":  # Several numbers stand for one width.
        theirs, ours = v1_width(theirs), v1_width(ours)
    assert ours == theirs
    run("to_native", input=last, output=tmp_path / "other", ffn_rule="v2")
    assert open_checkpoint(tmp_path / "other").model.config.ffn_rule == "v2"


def test_what_a_format_cannot_say_is_refused(golden, tmp_path):
    run("to_native", input=golden, output=tmp_path / "native")
    config = json.loads((tmp_path / "native" / "config.json").read_text())
    (tmp_path / "native" / "config.json").write_text(json.dumps({**config, "rope_theta": 1e6}))
    for kind in ("huggingface", "megatron"):
        with pytest.raises(UserError, match="rope_theta is 1e\\+06"):
            run(f"to_{kind}", input=tmp_path / "native", output=tmp_path / kind)


def test_a_broken_megatron_folder_is_known_as_one(golden, tmp_path):
    folder = tmp_path / "megatron"
    folder.mkdir()
    (folder / "latest_checkpointed_iteration.txt").write_text("7")
    with pytest.raises(UserError, match=r"megatron/iter_0000007 holds no mp_rank_00"):
        run("to_native", input=folder, output=tmp_path / "out")
    (folder / "latest_checkpointed_iteration.txt").write_bytes(b"\xff")
    with pytest.raises(UserError, match=r"latest_checkpointed_iteration\.txt holds '\S', which"):
        run("to_native", input=folder, output=tmp_path / "out")


def test_a_tokenizer_of_too_many_ids_is_refused(golden, tmp_path):
    texts = [f"{i} {i * i} {i**3}" for i in range(2000)]
    vocabulary = train_vocabulary(texts, 600, tmp_path / "large.model")
    with pytest.raises(UserError, match=r"the embedding has \d+ rows"):
        run("to_native", input=golden, output=tmp_path / "out", tokenizer=vocabulary.path)


def test_verify_fails_beyond_the_tolerance(golden, tmp_path):
    run("to_native", input=golden, output=tmp_path / "brain", dtype="bfloat16")
    with pytest.raises(UserError, match="The checkpoints differ by"):
        run("verify", input=golden, other=tmp_path / "brain")
    run("verify", input=golden, other=tmp_path / "brain", tolerance=0.1)


@pytest.mark.parametrize(
    ("command", "values", "message"),
    [
        ("to_llama", {}, "Name one command: to_native"),
        ("to_native", {}, "--input"),
        ("to_native", {"input": "."}, "is no checkpoint that is known"),
        ("to_native", {"input": "nowhere"}, "nowhere is no folder"),
        ("to_native", {"input": "GOLDEN"}, "--output"),
        ("to_native", {"input": "GOLDEN", "output": "/"}, "the output / holds"),
        ("to_native", {"input": "GOLDEN", "output": "gs://b/x"}, "gs://b/x is an address"),
        ("to_native", {"input": "s3://b/x"}, "s3://b/x is an address"),
        ("to_native", {"input": "~nobody_at_all/x"}, "home that is not known"),
        ("to_native", {"input": "GOLDEN", "output": "/dev/null"}, "/dev/null is a device"),
        ("to_native", {"input": "GOLDEN", "model_config": "tiny"}, "configuration of its own"),
        ("to_megatron", {"input": "GOLDEN", "tensor_parallel": 3}, "does not divide heads"),
        ("to_huggingface", {"input": "GOLDEN", "max_shard_size": "big"}, "max_shard_size is 'big'"),
        ("to_huggingface", {"input": "GOLDEN", "tokenizer": "none.model"}, "none.model"),
        ("verify", {"input": "GOLDEN"}, "--other"),
    ],
)
def test_user_errors_leave_nothing_behind(golden, tmp_path, monkeypatch, command, values, message):
    monkeypatch.chdir(tmp_path)
    values = {name: golden if value == "GOLDEN" else value for name, value in values.items()}
    if "output" not in values and message != "--output":
        values["output"] = tmp_path / "out" / "model"
    with pytest.raises(UserError, match=message.replace("'", "['\"]")):
        run(command, **values)
    assert not list(tmp_path.rglob("*model*"))


@pytest.mark.parametrize("output", ["source", "link", "source/new", ".", "x/../source"])
def test_the_source_is_never_the_target(golden, tmp_path, monkeypatch, output):
    monkeypatch.chdir(tmp_path)
    run("to_native", input=golden, output="source")
    (tmp_path / "link").symlink_to("source")
    (checkpoint,) = (tmp_path / "source" / "checkpoints").iterdir()
    before = contents(tmp_path)
    for source in ("source", checkpoint):
        with pytest.raises(UserError, match=r"the checkpoint of --input, which is only read"):
            run("to_t5x", input=source, output=output)
    assert contents(tmp_path) == before


def test_an_empty_folder_is_written_into(golden, tmp_path, monkeypatch):
    place = tmp_path / "empty"
    place.mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    inode = place.stat().st_ino
    with pytest.raises(UserError, match="has no optimizer state"):
        run("to_native", input=golden, output="~/empty", keep_optimizer=True)
    assert not list(place.iterdir())
    monkeypatch.chdir(place)
    run("to_native", input=golden, output=".")
    assert place.stat().st_ino == inode
    assert detect(place).name == "native"
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_verify_can_be_quiet(golden, tmp_path, capsys):
    run("to_native", input=golden, output=tmp_path / "same")
    run("to_native", input=golden, output=tmp_path / "brain", dtype="bfloat16")
    capsys.readouterr()
    run("verify", input=golden, other=tmp_path / "same", quiet=True)
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 3
    assert said[-1] == "largest difference of a weight: 0"
    with pytest.raises(UserError, match="The checkpoints differ"):
        run("verify", input=golden, other=tmp_path / "brain", quiet=True)
    differing = capsys.readouterr().out.splitlines()[2:-1]
    assert differing
    assert not any(line.split()[0] == "0" for line in differing)


@pytest.mark.parametrize(
    ("command", "flag"),
    [
        ("to_native", "--tensor_parallel=2"),
        ("to_megatron", "--tokenizer=some.model"),
        ("to_megatron", "--max_shard_size=1GB"),
        ("to_huggingface", "--keep_optimizer"),
        ("to_huggingface", "--compute_dtype=bfloat16"),
        ("to_megatron", "--compute_dtype=bfloat16"),
        ("verify", "--output=out"),
    ],
)
def test_flags_that_a_command_does_not_read_are_refused(command, flag):
    name = flag.partition("=")[0]
    with flagsaver.flagsaver(), pytest.raises(UserError, match=rf"{name} is for .*; {command} has"):
        convert.main(flags.FLAGS(["openba-convert", command, "--input=somewhere", flag]))


def test_help_is_quick():
    code = (
        "import sys; import openba_jax.convert; "
        "print([m for m in ('jax', 'numpy') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"


def test_the_plan_of_another_model_is_refused(golden, tmp_path):
    run("to_native", input=golden, output=tmp_path / "native")
    plan = Plan.identity(open_checkpoint(golden).model, "x").drop_layers({"decoder": [0]})
    (tmp_path / "native" / "plan.json").write_text(json.dumps(plan.to_dict()))
    with pytest.raises(UserError, match="it is the plan of another model"):
        run("to_t5x", input=tmp_path / "native", output=tmp_path / "converted")
    assert not (tmp_path / "converted").exists()
