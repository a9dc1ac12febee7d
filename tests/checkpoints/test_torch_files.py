import argparse
import collections
import io
import pickle
import re
import zipfile

import ml_dtypes
import numpy as np
import pytest

from openba_jax.checkpoints.torch_files import FileTensor, TorchDtype, read_torch
from openba_jax.checkpoints.torch_writer import TensorSpec, TorchWriter
from openba_jax.errors import UserError


def write(file, arrays, extra=None):
    specs = {name: TensorSpec(name, a.shape, a.dtype) for name, a in arrays.items()}
    with TorchWriter(file, {**specs, **(extra or {})}) as writer:
        for name, array in arrays.items():
            writer.write(specs[name], [lambda a=array: a[:1], lambda a=array: a[1:]])


ARRAYS = {
    "half": np.arange(6, dtype=np.float16).reshape(3, 2),
    "brain": np.arange(6).reshape(2, 3).astype(ml_dtypes.bfloat16),
    "single": np.linspace(0, 1, 5, dtype=np.float32),
    "long": np.arange(4).reshape(2, 2),
}


def test_round_trip(tmp_path):
    file = tmp_path / "file.pt"
    extra = {
        "args": argparse.Namespace(hidden_size=4, dtype=TorchDtype("float16"), name="字"),
        "list": [1, -(2**40), True, None, 1.5, (1, "x"), [], {}],
    }
    write(file, ARRAYS, extra)
    content = read_torch(file)
    for name, array in ARRAYS.items():
        assert isinstance(content[name], FileTensor)
        assert content[name].offset % 64 == 0
        assert content[name].dtype == array.dtype
        np.testing.assert_array_equal(content[name].read(), array)
        np.testing.assert_array_equal(content[name].read(slice(1, 2)), array[1:2])
    assert {name: content[name] for name in extra} == extra


def test_torch_reads_ours_and_we_read_its(tmp_path):
    torch = pytest.importorskip("torch", reason="the extra [torch] is not installed")
    write(tmp_path / "ours.pt", ARRAYS, {"args": argparse.Namespace(dtype=TorchDtype("float16"))})
    theirs = torch.load(tmp_path / "ours.pt", weights_only=False)
    assert theirs["args"].dtype == torch.float16
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(theirs[name].float().numpy(), array.astype(np.float32))
    base = torch.arange(24.0).reshape(4, 6)
    saved = {"view": base.T[1:4], "alias": base, "parameter": torch.nn.Parameter(base[2])}
    torch.save(saved, tmp_path / "theirs.pt")
    content = read_torch(tmp_path / "theirs.pt")
    for name, tensor in saved.items():
        np.testing.assert_array_equal(content[name].read(), tensor.detach().numpy())


@pytest.mark.parametrize("model", ["a", "b", "c"])
def test_golden_files_equal_their_safetensors(shared_dir, model):
    from openba_jax.checkpoints.safetensors_files import read_safetensors

    folder = shared_dir / "golden" / f"model_{model}"
    ours = read_torch(folder / "pytorch_model.bin")
    tensors = read_safetensors(folder / "model.safetensors")
    assert set(tensors) <= set(ours)
    for name, tensor in tensors.items():
        assert tensor.read().tobytes() == ours[name].read().tobytes()


class Attack:
    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call


def archive(file, pickled):
    with zipfile.ZipFile(file, "w") as target:
        target.writestr("archive/data.pkl", pickled)


@pytest.mark.parametrize(
    ("function", "arguments", "name"),
    [
        (eval, ("open('{marker}', 'w')",), "builtins.eval"),
        (exec, ("open('{marker}', 'w')",), "builtins.exec"),
        (getattr, (object, "__subclasses__"), "builtins.getattr"),
        (io.open, ("{marker}", "w"), "io.open"),
    ],
)
def test_code_is_refused_by_name_and_not_run(tmp_path, function, arguments, name):
    marker = tmp_path / "was_here"
    arguments = tuple(a.format(marker=marker) if isinstance(a, str) else a for a in arguments)
    attack = Attack(function, arguments)
    archive(tmp_path / "evil.pt", pickle.dumps({"weight": attack}, protocol=2))
    with pytest.raises(UserError, match=rf"names _?{re.escape(name)}, "):
        read_torch(tmp_path / "evil.pt")
    assert not marker.exists()


def test_code_behind_a_harmless_name_is_not_run(tmp_path):
    # `megatron.` names become stand-ins, whatever module would be behind them.
    text = b"\x80\x02}X\x01\x00\x00\x00acmegatron.os\nsystem\nX\x04\x00\x00\x00true\x85Rs."
    archive(tmp_path / "file.pt", text)
    assert type(read_torch(tmp_path / "file.pt")["a"]).__name__ == "system"
    text = text.replace(b"megatron.os\nsystem", b"posix\nsystem")
    archive(tmp_path / "file.pt", text)
    with pytest.raises(UserError, match=r"posix\.system"):
        read_torch(tmp_path / "file.pt")


def test_what_training_leaves_is_read_as_inert(tmp_path):
    state = collections.OrderedDict(rng=np.random.default_rng(0).bytes(3), array=np.arange(3))
    archive(tmp_path / "file.pt", pickle.dumps({"rng": state, "set": {1}}, protocol=2))
    content = read_torch(tmp_path / "file.pt")
    assert content["set"] == {1}
    assert type(content["rng"]["array"]).__name__ == "_reconstruct"


@pytest.mark.parametrize("keep", [0.2, 0.6, 0.99])
def test_truncated_file(tmp_path, keep):
    file = tmp_path / "file.pt"
    write(file, ARRAYS)
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(UserError, match=r"file\.pt"):
        read_torch(file)


def test_other_files(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        read_torch(tmp_path / "none.pt")
    (tmp_path / "old.pt").write_bytes(pickle.dumps({}))
    with pytest.raises(UserError, match=r"old\.pt is no zip"):
        read_torch(tmp_path / "old.pt")
    with zipfile.ZipFile(tmp_path / "empty.pt", "w"):
        pass
    with pytest.raises(UserError, match=r"holds no data\.pkl"):
        read_torch(tmp_path / "empty.pt")


def test_tensor_outside_of_its_storage(tmp_path):
    file = tmp_path / "file.pt"
    write(file, {"w": np.zeros((2, 2), np.float32)})
    with zipfile.ZipFile(file) as source, zipfile.ZipFile(tmp_path / "bad.pt", "w") as target:
        for info in source.infolist():
            data = source.read(info)
            if info.filename.endswith("data.pkl"):
                # The shape (2, 2) becomes (2, 9): its stride of 2 then ends behind the storage.
                two = b"J\x02\x00\x00\x00"
                data = data.replace(b"(" + two + two, b"(" + two + b"J\x09\x00\x00\x00", 1)
            target.writestr(info.filename, data)
    with pytest.raises(UserError, match="outside of its storage"):
        read_torch(tmp_path / "bad.pt")
