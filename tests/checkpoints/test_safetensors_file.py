import json

import ml_dtypes
import numpy as np
import pytest

from openba_jax.checkpoints.files.safetensors_file import read_safetensors, write_safetensors
from openba_jax.errors import UserError

ARRAYS = {
    "half": np.arange(6, dtype=np.float16).reshape(3, 2),
    "brain": np.arange(6).reshape(2, 3).astype(ml_dtypes.bfloat16),
    "single": np.linspace(0, 1, 5, dtype=np.float32),
}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "model.safetensors"
    plan = {name: (array.shape, array.dtype) for name, array in ARRAYS.items()}
    write_safetensors(path, plan, lambda name: [lambda: ARRAYS[name][:1], lambda: ARRAYS[name][1:]])
    return path


def test_round_trip(file):
    tensors = read_safetensors(file)
    assert list(tensors) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert tensors[name].read().tobytes() == array.tobytes()
        assert tensors[name].read(slice(1, 2)).tobytes() == array[1:2].tobytes()


def test_exchange_with_the_library(file, tmp_path):
    library = pytest.importorskip("safetensors.numpy")
    raw = {name: array for name, array in ARRAYS.items() if name != "brain"}
    header = json.loads(file.read_bytes()[8 : 8 + int.from_bytes(file.read_bytes()[:8], "little")])
    assert header["__metadata__"] == {"format": "pt"}  # transformers asks for it
    for name, array in library.load_file(file).items():
        assert array.tobytes() == ARRAYS[name].tobytes()
    library.save_file(raw, tmp_path / "theirs.safetensors")
    tensors = read_safetensors(tmp_path / "theirs.safetensors")
    assert {name: tensor.read().tobytes() for name, tensor in tensors.items()} == {
        name: array.tobytes() for name, array in raw.items()
    }


@pytest.mark.parametrize("size", [0, 5, 40, -1])
def test_truncated_file(file, size):
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(UserError, match=r"model\.safetensors"):
        read_safetensors(file)


def test_truncation_names_the_tensor(file):
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(UserError, match="tensor single ends behind the end"):
        read_safetensors(file)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dtype": "F8_E4M3"}, "unknown type F8_E4M3"),
        ({"shape": [4, 2]}, "header of tensor half is damaged"),
        ({"data_offsets": [-12, 0]}, "header of tensor half is damaged"),
        ({"shape": None}, "header of tensor half is damaged"),
    ],
)
def test_damaged_header(file, change, message):
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header["half"].update(change)
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])
    with pytest.raises(UserError, match=message):
        read_safetensors(file)


def test_no_such_file(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        read_safetensors(tmp_path / "none.safetensors")
