"""A format is one file: a class that opens and writes, and a line in the registry."""

import dataclasses
import json

import numpy as np
import pytest

from openba_jax.checkpoints import registry
from openba_jax.checkpoints.checkpoint import Slot, all_leaves, map_state, total_bytes
from openba_jax.checkpoints.formats.native import Native
from openba_jax.checkpoints.inspection import InspectedCheckpoint
from openba_jax.errors import UserError
from openba_jax.models.registry import config_from_dict, model_of
from openba_jax.pruning.apply import prune_checkpoint
from openba_jax.pruning.stages import Stage

STATE = [{"count": np.int32(5), "mu": Slot("0/mu")}, None]


class ToyCheckpoint:
    """A `Checkpoint` over one file `.npy` for each leaf."""

    def __init__(self, folder):
        fields = json.loads((folder / "toy.json").read_text())
        self.model = model_of(config_from_dict(fields["config"]))
        self.tokenizer, self.plan, self.step = None, fields["plan"], fields["step"]
        self.data, self.carried = fields["data"], {}
        self.optimizer = map_state(
            lambda leaf: Slot(leaf) if isinstance(leaf, str) else np.int32(leaf),
            fields["optimizer"],
        )
        self.folder = folder

    def dtype(self, leaf):
        return np.load(self._file(leaf), mmap_mode="r").dtype

    def read(self, leaf, rows=None):
        array = np.load(self._file(leaf), mmap_mode="r")
        axes = self.model.axes.paths[leaf.path]
        return array[tuple(rows if rows and axis == "vocab" else slice(None) for axis in axes)]

    def place(self, leaf):
        return f"{self._file(leaf)}: the array"

    def _file(self, leaf):
        return self.folder / f"{leaf}.npy".replace("/", ".")


@dataclasses.dataclass(frozen=True)
class Toy:
    name = "toy"
    description = "toy folder (toy.json)"

    def recognises(self, path):
        return (path / "toy.json").is_file()

    def open(self, path):
        return ToyCheckpoint(path)

    def write(self, checkpoint, folder):
        fields = {
            "config": checkpoint.model.config.to_dict(),
            "plan": checkpoint.plan,
            "step": checkpoint.step,
            "data": dict(checkpoint.data),
            "optimizer": map_state(
                lambda leaf: leaf.name if isinstance(leaf, Slot) else int(leaf),
                checkpoint.optimizer,
            ),
        }
        (folder / "toy.json").write_text(json.dumps(fields))
        for leaf in all_leaves(checkpoint):
            np.save(folder / f"{leaf}.npy".replace("/", "."), checkpoint.read(leaf))


@pytest.fixture
def toy(monkeypatch):
    monkeypatch.setitem(registry.FORMATS, Toy.name, Toy())
    return Toy()


def test_a_registered_format_is_recognised_and_moves_to_and_from_others(
    toy, make_checkpoint, tiny, tmp_path, same
):
    source = make_checkpoint(tiny, optimizer=STATE, data={"seen": 3})
    for name in ("toy", "native", "back"):
        (tmp_path / name).mkdir()
    toy.write(source, tmp_path / "toy")
    assert registry.detect(tmp_path / "toy") is registry.FORMATS["toy"]
    first = registry.open_checkpoint(tmp_path / "toy")
    same(source, first)
    Native().write(InspectedCheckpoint(first), tmp_path / "native")
    second = registry.open_checkpoint(tmp_path / "native")
    toy.write(second, tmp_path / "back")
    last = registry.open_checkpoint(tmp_path / "back")
    same(source, last)
    assert (last.step, last.data, last.model) == (3, {"seen": 3}, source.model)


def test_a_registered_format_is_pruned(toy, make_checkpoint, tiny, tmp_path):
    source = make_checkpoint(tiny, optimizer=STATE)
    (tmp_path / "toy").mkdir()
    toy.write(source, tmp_path / "toy")
    stage = Stage("cut", drop_decoder=(0,), embed=8)
    prune_checkpoint(tmp_path / "toy", tmp_path / "cut", stage, output_format="toy")
    prune_checkpoint(tmp_path / "toy", tmp_path / "kept", stage, keep_optimizer=True)
    assert registry.detect(tmp_path / "kept").name == "native"
    cut, kept = (registry.open_checkpoint(tmp_path / name) for name in ("cut", "kept"))
    assert cut.model.axes.sizes == kept.model.axes.sizes
    assert cut.model.axes.sizes["decoder/layers"] == 1
    assert (cut.optimizer, cut.step, kept.optimizer, kept.step) == (None, 0, STATE, 3)
    for leaf in all_leaves(cut):
        np.testing.assert_array_equal(cut.read(leaf), kept.read(leaf))
    assert total_bytes(kept) == 2 * total_bytes(cut)


def test_what_is_no_checkpoint_is_told_what_there_is(toy, tmp_path):
    with pytest.raises(UserError, match=r"no model folder .*, no toy folder \(toy\.json\)\."):
        registry.detect(tmp_path)
    with pytest.raises(UserError, match="nowhere is no folder"):
        registry.detect(tmp_path / "nowhere")


def test_a_configuration_is_for_t5x_only(toy, make_checkpoint, tiny, tmp_path):
    toy.write(make_checkpoint(tiny), tmp_path)
    with pytest.raises(UserError, match="has a configuration of its own"):
        registry.open_checkpoint(tmp_path, tiny)
