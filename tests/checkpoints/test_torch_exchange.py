"""torch reads what we write, and we read what torch writes; torch is no dependency of ours."""

import argparse
import json
import random

import ml_dtypes
import numpy as np
import pytest

from openba_jax.checkpoints.files.tensors import FileTensor
from openba_jax.checkpoints.files.torch_reader import TorchDtype, read_torch
from openba_jax.checkpoints.files.torch_writer import TensorSpec, TorchWriter
from openba_jax.checkpoints.formats.huggingface import HuggingFace
from openba_jax.checkpoints.formats.megatron import Megatron
from openba_jax.models.axes import flatten

torch = pytest.importorskip("torch", reason="the extra [torch] is not installed")


def as_numpy(tensor):
    """The values of a torch tensor, of any type, bit for bit."""
    tensor = tensor.detach().contiguous()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


def assert_equal(ours, theirs):
    """The same tensors by name; ours are in files."""
    assert set(ours) == set(theirs)
    for name, tensor in theirs.items():
        expected = as_numpy(tensor)
        assert isinstance(ours[name], FileTensor)
        assert ours[name].dtype == expected.dtype
        assert ours[name].read().tobytes() == expected.tobytes(), name


def test_tensors_of_every_type(tmp_path):
    arrays = {
        "half": np.arange(6, dtype=np.float16).reshape(3, 2),
        "brain": np.arange(6).reshape(2, 3).astype(ml_dtypes.bfloat16),
        "single": np.linspace(0, 1, 5, dtype=np.float32),
        "double": np.linspace(0, 1, 5),
        "long": np.arange(4).reshape(2, 2),
        "byte": np.arange(4, dtype=np.uint8),
        "bool": np.array([True, False]),
        "scalar": np.array(3, np.int32),
        "empty": np.empty((0, 3), np.float32),
    }
    specs = {name: TensorSpec(name, a.shape, a.dtype) for name, a in arrays.items()}
    arguments = argparse.Namespace(dtype=TorchDtype("float16"), size=2**40, name="字")
    with TorchWriter(tmp_path / "ours.pt", {**specs, "args": arguments}) as writer:
        for name, array in arrays.items():
            writer.write(specs[name], [lambda a=array: a])
    theirs = torch.load(tmp_path / "ours.pt", weights_only=False)
    read = theirs.pop("args")
    assert vars(read) == {"dtype": torch.float16, "size": 2**40, "name": "字"}
    for name, array in arrays.items():
        assert as_numpy(theirs[name]).dtype == array.dtype
        np.testing.assert_array_equal(as_numpy(theirs[name]), array)
    torch.save(theirs, tmp_path / "theirs.pt")
    assert_equal(read_torch(tmp_path / "theirs.pt"), theirs)


def test_views_aliases_and_parameters(tmp_path):
    base = torch.arange(24.0).reshape(4, 6)
    module = torch.nn.Linear(3, 2)
    saved = {
        "view": base.T[1:4],
        "alias": base,
        "expanded": base[:1].expand(5, 6),
        "parameter": torch.nn.Parameter(base[2]),
    }
    torch.save(saved, tmp_path / "file.pt")
    content = read_torch(tmp_path / "file.pt")
    for name, tensor in saved.items():
        np.testing.assert_array_equal(content[name].read(), tensor.detach().numpy())
    torch.save(module.state_dict(), tmp_path / "file.pt")  # An OrderedDict with attributes.
    assert_equal(read_torch(tmp_path / "file.pt"), module.state_dict())


@pytest.mark.parametrize("max_shard_bytes", [10**9, 20_000], ids=["single", "sharded"])
def test_hugging_face(make_checkpoint, variant, dtype, tmp_path, same, max_shard_bytes):
    source = make_checkpoint(variant.replace(param_dtype=dtype.name, dtype=dtype.name))
    HuggingFace("torch", max_shard_bytes).write(source, tmp_path)
    expected = HuggingFace().open(tmp_path)
    files = sorted(tmp_path.glob("pytorch_model*.bin"))
    assert (len(files) > 1) == (max_shard_bytes < 10**9)
    for file in files:
        theirs = torch.load(file, weights_only=True)
        assert_equal({name: expected.tensors[name] for name in theirs}, theirs)
        torch.save(theirs, file)
    if len(files) > 1:
        index = json.loads((tmp_path / "pytorch_model.bin.index.json").read_text())
        assert set(index["weight_map"]) == set(expected.tensors)
    same(source, HuggingFace().open(tmp_path))


@pytest.mark.parametrize("ranks", [1, 2])
def test_megatron(make_checkpoint, tiny, dtype, tmp_path, same, ranks):
    source = make_checkpoint(tiny.replace(param_dtype=dtype.name, dtype=dtype.name))
    Megatron(ranks).write(source, tmp_path)
    for file in sorted(tmp_path.glob("iter_*/mp_rank_*/*.pt")):
        ours, theirs = read_torch(file), torch.load(file, weights_only=False)
        assert isinstance(theirs["args"], argparse.Namespace)
        assert vars(theirs["args"]) == vars(ours["args"])
        assert_equal(flatten(ours["model"]), flatten(theirs["model"]))
        # What Megatron leaves besides.
        theirs["args"].params_dtype = torch.float16
        theirs["args"].betas = (0.9, 0.95)
        weight = torch.nn.Parameter(torch.ones(2))
        optimizer = torch.optim.AdamW([weight])
        weight.sum().backward()
        optimizer.step()
        theirs["optimizer"] = optimizer.state_dict()
        theirs["rng_state"] = [
            {
                "random_rng_state": random.Random(0).getstate(),
                "np_rng_state": np.random.RandomState(0).get_state(),
                "torch_rng_state": torch.get_rng_state(),
                "device": torch.device("cpu"),
            }
        ]
        torch.save(theirs, file)
    read = Megatron().open(tmp_path)
    assert read.carried["betas"] == (0.9, 0.95)
    same(source, read, vocab=256)
