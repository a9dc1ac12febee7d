"""The state of an optimizer moves between formats leaf by leaf, bit for bit."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from openba_jax.checkpoints import model_folder, training_state
from openba_jax.checkpoints.checkpoint import Slot, all_leaves, load_state, load_tree, slots
from openba_jax.checkpoints.files.tensorstore_arrays import save_arguments, state_handler
from openba_jax.checkpoints.formats.huggingface import HuggingFace
from openba_jax.checkpoints.formats.megatron import Megatron
from openba_jax.checkpoints.formats.native import Native
from openba_jax.checkpoints.formats.t5x import LINKS, STEP_PREFIX, T5X
from openba_jax.errors import UserError
from openba_jax.models.openba.model import OpenBAModel
from openba_jax.training.optimizer import adamw, warmup_constant

FORMATS = {"native": Native(), "t5x": T5X()}
STATE = [
    None,
    {"count": np.int32(7), "mu": Slot("1/mu"), "nu": Slot("1/nu")},
    {"inner_state": None},
    {"count": np.int32(7)},
]
"""As orbax gives back the state of `training.optimizer.adamw`."""


@pytest.fixture(params=[True, False], ids=["scanned", "unrolled"])
def scanned(request):
    return request.param


@pytest.fixture
def trained(tiny, make_checkpoint):
    """A checkpoint with moments, in memory; no two of its arrays are alike."""

    def make(scan_layers=True, optimizer=STATE):
        config = tiny.replace(scan_layers=scan_layers)
        made = make_checkpoint(config, optimizer=optimizer, data={"seen": 3})
        made.step = 7
        return made

    return make


@pytest.fixture
def chain():
    return adamw(warmup_constant(1e-3)).transformation


def move(source, target, kind):
    target.mkdir()
    FORMATS[kind].write(source, target)
    return FORMATS[kind].open(target)


def test_the_links_are_those_of_the_chain(trained, chain):
    state = jax.eval_shape(chain.init, trained().model.abstract_params())
    assert tuple(getattr(link, "_fields", ()) for link in state) == LINKS


@pytest.mark.parametrize("kinds", [["native"], ["t5x"], ["t5x", "native"]], ids="-".join)
def test_a_state_moves_as_it_is(trained, tmp_path, same, scanned, kinds):
    first = last = trained(scanned)
    for kind in kinds:
        last = move(last, tmp_path / kind, kind)
    assert (last.model, last.step) == (first.model, 7)
    assert sorted(slots(last.optimizer)) == ["1/mu", "1/nu"]
    assert last.optimizer[3]["count"].dtype == np.int32
    same(first, last)
    # T5X has no place for the position in the data.
    assert last.data == ({} if "t5x" in kinds else {"seen": 3})


def test_types_of_moments_are_kept(tiny, make_checkpoint, tmp_path, same):
    source = make_checkpoint(tiny.replace(param_dtype="bfloat16"), optimizer=STATE)
    for leaf in source.arrays:
        if leaf.slot == "1/nu":
            source.arrays[leaf] = source.arrays[leaf].astype(np.float32)
    read = move(move(source, tmp_path / "t5x", "t5x"), tmp_path / "native", "native")
    same(source, read)
    types = {leaf.slot: read.dtype(leaf).name for leaf in all_leaves(read)}
    assert types == {"": "bfloat16", "1/mu": "bfloat16", "1/nu": "float32"}


def test_a_run_goes_on_from_a_state_that_went_through_t5x(tiny, chain, tmp_path, same):
    model = OpenBAModel(tiny)

    @jax.jit
    def train(key):
        params = model.init(key)
        return params, chain.update(params, chain.init(params), params)[1]

    params, opt_state = train(jax.random.key(0))
    training_state.create(tmp_path / "model", model, params, opt_state=opt_state, step=7)
    first = Native().open(tmp_path / "model")
    assert [set(link or ()) for link in first.optimizer] == [set(names) for names in LINKS]
    last = move(move(first, tmp_path / "t5x", "t5x"), tmp_path / "back", "native")
    same(first, last)
    target = {"params": params, "opt_state": opt_state, "step": jnp.int32(0)}
    target = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), target
    )
    state, _ = training_state.restore_state(tmp_path / "back", target)
    assert jax.tree.structure(state["opt_state"]) == jax.tree.structure(opt_state)
    jax.tree.map(np.testing.assert_array_equal, state["opt_state"], opt_state)
    jax.tree.map(np.testing.assert_array_equal, state["params"], params)
    assert int(state["step"]) == 7


@pytest.mark.parametrize("writer", [HuggingFace(), Megatron()], ids=lambda each: each.name)
def test_formats_without_a_place_for_it_leave_it_behind(trained, tmp_path, writer):
    writer.write(trained(), tmp_path)
    assert writer.open(tmp_path).optimizer is None


def test_the_legacy_format_of_t5x_refuses_it(trained, tmp_path):
    with pytest.raises(UserError, match="legacy format is written without optimizer state"):
        T5X("legacy").write(trained(), tmp_path)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("state", "part"),
    [
        ([{"count": np.int32(0), "v_row": Slot("0/v_row")}], "0"),
        ([None, np.int32(3)], "1"),
        ([None] * 4 + [{"count": np.int32(3)}], "4"),
        ([None, {"count": np.int32(7), "mu": Slot("1/mu")}], "1"),
    ],
    ids=["slot", "number", "longer", "shorter"],
)
def test_the_state_of_another_optimizer_does_not_reach_t5x(trained, tmp_path, same, state, part):
    source = trained(optimizer=state)
    T5X().write(source, tmp_path)
    read = T5X().open(tmp_path)
    with pytest.raises(UserError, match=rf"checkpoint_7: the optimizer state has a part {part}"):
        _ = read.optimizer
    source.optimizer = read.optimizer = None
    same(source, read)


def test_parameters_beside_the_state_of_adafactor_are_read(trained, tmp_path, same):
    # T5X's Adafactor: below each parameter its moments, rows and columns of some.
    source = trained(optimizer=None)
    params = load_tree(source)
    state = jax.tree.map(lambda leaf: {"m": leaf, "v_row": np.ones(3, np.float32)}, params)
    tree = {"target": params, "state": {"step": np.int32(7), "param_states": state}}
    model_folder.write_metadata_of(source, tmp_path)
    options = ocp.CheckpointManagerOptions(
        step_prefix=STEP_PREFIX, enable_async_checkpointing=False
    )
    handlers = {"state": state_handler()}
    with ocp.CheckpointManager(tmp_path, options=options, item_handlers=handlers) as manager:
        manager.save(7, args=ocp.args.Composite(state=save_arguments(tree)))
    read = T5X().open(tmp_path)
    with pytest.raises(UserError, match="the optimizer state has a part decoder that"):
        _ = read.optimizer
    read.optimizer = None
    same(source, read)


def test_states_that_are_no_chain_move_between_model_folders(trained, tmp_path, same):
    state = {"inner": [[Slot("inner/0/0")], None], "hyper": {"rate": np.float32(0.5)}}
    source = trained(optimizer=state)
    same(source, move(source, tmp_path / "native", "native"))


def odd_moments(tiny, change):
    """Parameters, and the state of an optimizer whose first moment was changed."""
    model = OpenBAModel(tiny)
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), model.abstract_params())
    moments = {name: dict(tree) for name, tree in params.items()}
    change(moments)
    return model, params, [None, {"count": np.int32(7), "mu": moments, "nu": params}]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda moments: moments.pop("logits_dense"),
            r"an array 1/mu/\S+ of shape .* no parameter",
        ),
        (
            lambda moments: moments.update(history={"last": np.ones(3)}),
            r"an array 1/mu/\S+ of shape .* no parameter",
        ),
        (
            lambda moments: moments.update(logits_dense={"bias": np.ones(3)}),
            r"optimizer state 1/mu: parameter logits_dense/bias has shape \[3\]",
        ),
    ],
    ids=["missing", "superfluous", "another shape"],
)
def test_moments_that_do_not_fit_the_parameters_are_named(tiny, tmp_path, change, message):
    model, params, opt_state = odd_moments(tiny, change)
    training_state.create(tmp_path / "model", model, params, opt_state=opt_state, step=7)
    with pytest.raises(UserError, match=message):
        _ = Native().open(tmp_path / "model").optimizer


def test_parameters_that_contradict_the_configuration_are_refused(trained, tmp_path):
    Native().write(trained(), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "mlp_dim": 512}))
    with pytest.raises(UserError, match=r"mlp/wi_0/kernel has shape \[.*12, 256\]"):
        Native().open(tmp_path)


def test_a_damaged_state_is_named(trained, tmp_path):
    T5X().write(trained(), tmp_path)
    largest = max(tmp_path.rglob("d/*"), key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:100])
    with pytest.raises(UserError, match=r"checkpoint_7: array \S+ is damaged"):
        load_state(T5X().open(tmp_path))
