"""Whole training states, moved between model folders and T5X folders."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from openba_jax.checkpoints import model_folder, training_state
from openba_jax.checkpoints.formats import t5x
from openba_jax.checkpoints.training_state import LINKS, read_whole, write_whole
from openba_jax.errors import UserError
from openba_jax.models.openba.network import init_params
from openba_jax.training.optimizer import adamw, warmup_constant


@pytest.fixture
def chain():
    return adamw(warmup_constant(1e-3)).transformation


@pytest.fixture
def trained(tiny, chain):
    """Parameters and the state of the optimizer after a step."""
    params = init_params(tiny, jax.random.key(0))
    gradients = jax.tree.map(jnp.ones_like, params)
    _, opt_state = chain.update(gradients, chain.init(params), params)
    return params, opt_state


@pytest.fixture
def folder(tiny, trained, tmp_path):
    params, opt_state = trained
    path = tmp_path / "model"
    training_state.create(path, tiny, params, opt_state=opt_state, step=7, data={"seen": 3})
    return path


def test_the_links_are_those_of_the_chain(tiny, chain):
    state = chain.init(init_params(tiny, jax.random.key(0)))
    assert tuple(getattr(link, "_fields", ()) for link in state) == LINKS


@pytest.mark.parametrize("kinds", [["native"], ["t5x"], ["t5x", "native"]], ids="-".join)
def test_a_state_moves_as_it_is(tiny, trained, chain, folder, tmp_path, kinds):
    last = folder
    for kind in kinds:
        write_whole(read_whole(last), tmp_path / kind, kind)
        last = tmp_path / kind
    model = read_whole(last)
    assert (model.config, model.step) == (tiny, 7)
    params, opt_state = trained
    jax.tree.map(np.testing.assert_array_equal, model.params, jax.device_get(params))
    assert [None if link is None else tuple(link) for link in model.opt_state] == [
        names or None for names in LINKS
    ]
    found, expected = jax.tree.leaves(model.opt_state), jax.tree.leaves(opt_state)
    assert len(found) == len(expected)
    if kinds[-1] == "native":
        target = {"params": params, "opt_state": chain.init(params), "step": jnp.int32(0)}
        target = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding),
            target,
        )
        state, data = training_state.restore_state(last, target)
        jax.tree.map(np.testing.assert_array_equal, state["opt_state"], opt_state)
        assert data == ({} if "t5x" in kinds else {"seen": 3})  # T5X has no place for it.


def test_the_state_of_another_optimizer_is_refused(tiny, folder, tmp_path):
    model = read_whole(folder)

    links = {"0": {"count": np.int32(0), "v_row": model.params}, "1": {"x": np.zeros(1)}}

    (tmp_path / "other").mkdir()
    state = {"step": np.asarray(7, np.int32), "param_states": links}
    t5x.write_checkpoint(tmp_path / "other", 7, {"target": model.params, "state": state})
    model_folder.write_metadata(tmp_path / "other", tiny)
    with pytest.raises(UserError, match=r"checkpoint_7: the optimizer state has a part 0"):
        read_whole(tmp_path / "other")


def test_parameters_that_contradict_the_configuration_are_refused(folder, tmp_path):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "mlp_dim": 512}))
    with pytest.raises(UserError, match=r"mlp/wi_0/kernel of shape \(2, 12, 256\)"):
        write_whole(read_whole(folder), tmp_path / "out", "native")
    assert not (tmp_path / "out").exists()


def test_a_damaged_state_is_named(folder, tmp_path):
    write_whole(read_whole(folder), tmp_path / "t5x", "t5x")
    data = (tmp_path / "t5x").rglob("d/*")
    largest = max(data, key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:100])
    with pytest.raises(UserError, match=r"checkpoint_7: array \S+ is damaged"):
        read_whole(tmp_path / "t5x")
