import gc
import itertools
import shutil
import tracemalloc

import ml_dtypes
import numpy as np
import pytest

from openba_jax.checkpoints.checkpoint import Slot, load_tree, total_bytes
from openba_jax.checkpoints.files.tensors import FileTensor, JoinedTensor, count_not_finite
from openba_jax.checkpoints.formats.huggingface import HuggingFace
from openba_jax.checkpoints.formats.native import Native
from openba_jax.checkpoints.formats.t5x import T5X
from openba_jax.checkpoints.inspection import InspectedCheckpoint
from openba_jax.errors import UserError
from openba_jax.models.axes import Leaf
from openba_jax.models.openba.config import OpenBAConfig
from openba_jax.models.openba.model import OpenBAModel


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ml_dtypes.bfloat16])
def test_count_not_finite(dtype):
    values = np.array([[0, 1e-8, -1, np.nan], [np.inf, -np.inf, 100, -0.0]]).astype(dtype)
    assert count_not_finite(values) == count_not_finite(values.T) == 3
    assert count_not_finite(values[:, 1:3]) == 1
    assert count_not_finite(values[:0]) == 0


def test_joined_tensor_reads_rows_across_parts(tmp_path):
    whole = np.arange(40, dtype=np.float32).reshape(10, 4)
    whole.tofile(tmp_path / "file")
    f32 = np.dtype(np.float32)
    cuts = [0, 3, 4, 10]
    parts = [
        FileTensor(tmp_path / "file", 16 * a, (b - a, 4), f32) for a, b in itertools.pairwise(cuts)
    ]
    joined = JoinedTensor(tuple(parts), 0)
    assert joined.shape == (10, 4)
    np.testing.assert_array_equal(joined.read(), whole)
    for start in range(10):
        for stop in range(start + 1, 11):
            np.testing.assert_array_equal(joined.read(slice(start, stop)), whole[start:stop])
    beside = JoinedTensor((parts[2], parts[2]), 1)
    np.testing.assert_array_equal(beside.read(slice(1, 3)), np.hstack([whole[5:7]] * 2))


def test_cast_reports_what_it_breaks(make_checkpoint, tiny):
    source = make_checkpoint(tiny)
    path, layer = "decoder/layers/mlp/wo/kernel", 1
    source.arrays[Leaf(path, layer)][0, :3] = [1e5, -1e6, np.nan]
    source.arrays[Leaf("token_embedder/embedding")][5, 0] = np.inf
    inspected = InspectedCheckpoint(source, np.dtype(np.float16))
    assert inspected.model.config.param_dtype == "float16"
    params = load_tree(inspected)
    assert params["decoder"]["layers"]["mlp"]["wo"]["kernel"].dtype == np.float16
    warnings = inspected.warnings()
    holds = f"memory: tensor {path} holds"
    assert f"{holds} 1 NaN or infinite values." in warnings
    assert f"{holds} 2 values that overflow float16 and became infinite." in warnings
    holds = "memory: tensor token_embedder/embedding holds"
    assert f"{holds} 1 NaN or infinite values." in warnings
    assert len(warnings) == 3
    assert InspectedCheckpoint(make_checkpoint(tiny)).warnings() == []


@pytest.mark.parametrize("scan_layers", [True, False])
def test_load_tree_has_the_shapes_of_the_model(make_checkpoint, variant, scan_layers):
    import jax

    config = variant.replace(scan_layers=scan_layers)
    params = load_tree(make_checkpoint(config))
    expected = OpenBAModel(config).abstract_params()
    assert jax.tree.map(lambda a: a.shape, params) == jax.tree.map(lambda a: a.shape, expected)


def test_layers_of_different_types_are_refused(make_checkpoint, tiny):
    source = make_checkpoint(tiny)
    leaf = Leaf("decoder/layers/mlp/wo/kernel", 1)
    source.arrays[leaf] = source.arrays[leaf].astype(np.float16)
    with pytest.raises(UserError, match="wo/kernel has different types in different layers"):
        load_tree(source)


DEEP = OpenBAConfig(
    vocab_size=20_000,
    embed_dim=128,
    num_heads=8,
    head_dim=16,
    mlp_dim=512,
    encoder_layers=1,
    decoder_layers=12,
)
LAYER = 4 * (8 * 128 * 128 + 3 * 128 * 512)
# Tables of names and the bookkeeping of orbax take a constant amount besides.
ALLOWED = 2 * LAYER + 2**21


@pytest.fixture
def few_bytes(monkeypatch):
    """Slices and chunks that suit so small a model."""
    monkeypatch.setattr("openba_jax.checkpoints.files.tensors.SLICE_BYTES", 2**18)
    monkeypatch.setattr("openba_jax.checkpoints.files.tensorstore_arrays.SLICE_BYTES", 2**18)
    monkeypatch.setattr("openba_jax.checkpoints.files.tensorstore_arrays.MIN_CHUNK_BYTES", 2**16)


def peak(writer, source, folder):
    """Bytes that Python and numpy held at most while a checkpoint was written.

    Threads that earlier tests left behind, and garbage that was not collected yet, only add to
    it: the least of three times counts.
    """
    found = []
    while len(found) < 3 and not any(held < ALLOWED for held in found):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        gc.collect()
        tracemalloc.start()
        try:
            writer.write(source, folder)
            found.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    return min(found)


def test_conversions_hold_about_two_layers(make_checkpoint, tmp_path, few_bytes):
    source = make_checkpoint(DEEP)
    assert ALLOWED < 4 * LAYER
    assert peak(HuggingFace(), source, tmp_path / "hf") < ALLOWED
    from_hf = HuggingFace().open(tmp_path / "hf")
    assert peak(Native(), from_hf, tmp_path / "native") < ALLOWED
    from_native = Native().open(tmp_path / "native")
    assert peak(HuggingFace(), from_native, tmp_path / "back") < ALLOWED
    names = ["config.json", "generation_config.json", "model.safetensors"]
    for name in names:
        assert (tmp_path / "hf" / name).read_bytes() == (tmp_path / "back" / name).read_bytes()


def test_the_state_of_an_optimizer_is_moved_in_slices(make_checkpoint, tmp_path, few_bytes, same):
    link = {"count": np.int32(3), "mu": Slot("1/mu"), "nu": Slot("1/nu")}
    state = [None, link, {"inner_state": None}, {"count": np.int32(3)}]
    source = last = make_checkpoint(DEEP, optimizer=state)
    assert total_bytes(source) > 15 * ALLOWED
    for name, writer in (("native", Native()), ("t5x", T5X()), ("back", Native())):
        assert peak(writer, last, tmp_path / name) < ALLOWED
        last = writer.open(tmp_path / name)
    same(source, last)
