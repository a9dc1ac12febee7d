import argparse
import collections
import io
import pickle
import re
import struct
import zipfile

import ml_dtypes
import numpy as np
import pytest

from openba_jax.checkpoints.files.torch_reader import FileTensor, TorchDtype, read_torch
from openba_jax.checkpoints.files.torch_writer import TensorSpec, TorchWriter
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


@pytest.mark.parametrize("model", ["a", "b", "c"])
def test_golden_files_equal_their_safetensors(golden_dir, model):
    from openba_jax.checkpoints.files.safetensors_file import read_safetensors

    folder = golden_dir(f"model_{model}", "pytorch_model.bin")
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


def text(value):
    """A string as the pickle protocol writes it."""
    return pickle.BINUNICODE + struct.pack("<I", len(value)) + value.encode()


STATE = b"(K\x04" + text(">") + b"NNNJ\x64\x00\x00\x00J\x01\x00\x00\x00K?}t"
"""A state of numpy's dtype: 100 bytes wide, of pointers to objects."""
TENSOR = (
    b"ctorch._utils\n_rebuild_tensor_v2\n(("
    + text("storage")
    + b"ctorch\nFloatStorage\n"
    + text("0")
    + text("cpu")
    + b"K\x01tQK\x00K\x01\x85K\x01\x85\x89NtR"
)


@pytest.mark.parametrize(
    "what",
    [
        pytest.param(b"ctorch\nBFloat16Storage\n" + STATE, id="numpy's dtype"),
        pytest.param(b"ctorch\nfloat16\n}" + text("name") + text("hub\nload") + b"s", id="dtype"),
        pytest.param(TENSOR + b"}" + text("file") + text("/etc/passwd") + b"s", id="tensor"),
        pytest.param(TENSOR + b"N}" + text("offset") + b"K\x07s\x86", id="tensor's slots"),
    ],
)
def test_nothing_in_a_pickle_changes_what_is_made(tmp_path, what):
    with zipfile.ZipFile(tmp_path / "file.pt", "w") as target:
        target.writestr("archive/data.pkl", b"\x80\x02" + what + b"b.")
        target.writestr("archive/data/0", b"abcd")
    with pytest.raises(UserError, match=r"file\.pt is damaged: .* changes a"):
        read_torch(tmp_path / "file.pt")
    assert np.dtype(ml_dtypes.bfloat16).itemsize == 2


def test_nothing_in_a_pickle_changes_a_class_of_this_process(tmp_path):
    change = b"cargparse\nNamespace\n(N}" + text("__eq__") + text("evil") + b"stb"
    archive(tmp_path / "file.pt", b"\x80\x02" + change + b".")
    read_torch(tmp_path / "file.pt")
    assert argparse.Namespace(a=1) == argparse.Namespace(a=1)


@pytest.mark.parametrize(
    "pickled",
    [
        b"\x80\x04" + text("torch.serialization") + text("os.system") + b"\x93.",
        b"\x80\x04" + text("argparse") + text("Namespace.__init__.__globals__") + b"\x93.",
        b"(S'true'\nios\nsystem\n.",
        b"(cos\nsystem\nS'true'\no.",
        b"\x80\x02\x82\x01)R.",
        b"\x80\x02ctorch.storage\n_load_from_bytes\n" + text("x") + b"\x85R.",
        b"\x80\x02ccollections\ndefaultdict\ncos\nsystem\n\x85R.",
        TENSOR.replace(b"K\x00K\x01\x85", b"G" + bytes(8) + b"K\x01\x85") + b".",
        b"Pid\n.",
        b"\x80\x04\x95" + b"\xff" * 7 + b"\x7f.",
        b"",
    ],
)
def test_other_tricks_of_pickles(tmp_path, pickled):
    with zipfile.ZipFile(tmp_path / "file.pt", "w") as target:
        target.writestr("archive/data.pkl", pickled)
        target.writestr("archive/data/0", b"abcd")
    with pytest.raises(UserError, match=r"file\.pt"):
        read_torch(tmp_path / "file.pt")


@pytest.mark.parametrize(("at", "value"), [("flag", 1), ("method", 99), ("version", 99)])
def test_archives_that_torch_does_not_write(tmp_path, at, value):
    archive(tmp_path / "file.pt", b"\x80\x02}.")
    data = bytearray((tmp_path / "file.pt").read_bytes())
    directory = data.index(b"PK\x01\x02")
    data[directory + {"version": 6, "flag": 8, "method": 10}[at]] = value
    data[{"version": 4, "flag": 6, "method": 8}[at]] = value
    (tmp_path / "file.pt").write_bytes(data)
    with pytest.raises(UserError, match=r"file\.pt"):
        read_torch(tmp_path / "file.pt")


def test_a_pickle_is_not_unpacked(tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as target:
        target.writestr("archive/data.pkl", b"N" * 2**20)
    with pytest.raises(UserError, match=r"data\.pkl is compressed"):
        read_torch(tmp_path / "bomb.pt")


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


def test_any_damage_is_one_sentence(tmp_path):
    file = tmp_path / "file.pt"
    write(file, ARRAYS, {"args": argparse.Namespace(a=1)})
    whole = file.read_bytes()
    random = np.random.default_rng(0)
    refusals = []
    for _ in range(300):
        data = bytearray(whole)
        # Half of the flips hit the directory of the archive, at the end.
        first = random.choice([0, len(data) - 600])
        data[random.integers(first, len(data))] ^= 1 << random.integers(8)
        file.write_bytes(data)
        try:
            read_torch(file)
        except UserError as error:
            refusals.append(str(error))
    assert len(refusals) > 50
    assert all(str(file) in refusal for refusal in refusals)


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
