from __future__ import annotations

import numpy as np
import pytest
from plan_strategies import MODEL, random_params

from openba_jax.errors import UserError
from openba_jax.models.axes import Leaf, flatten
from openba_jax.pruning.criteria import base
from openba_jax.pruning.criteria.base import ReadLeaf, Subject, criterion
from openba_jax.pruning.criteria.registry import score
from openba_jax.pruning.plan import Plan, pruned_model, relative
from openba_jax.pruning.stages import Stage, apply_stage
from openba_jax.pruning.transform import take

PARAMS = random_params(MODEL)
KEYS = ("embed", "decoder/heads", "encoder/mlp", "decoder/layers")


def reader(params: dict) -> ReadLeaf:
    flat = flatten(params)

    def read(leaf: Leaf) -> np.ndarray:
        return flat[leaf.path] if leaf.layer is None else flat[leaf.path][leaf.layer]

    return read


def squares(path: str) -> np.ndarray:
    return np.square(flatten(PARAMS)[path].astype(np.float64))


def test_magnitude_sums_squares_over_all_parameters_with_the_axis() -> None:
    scores = score("magnitude", Subject(MODEL, reader(PARAMS)), KEYS)
    assert scores.keys() == set(KEYS)
    leaves = {path: squares(path) for path in flatten(PARAMS)}
    axes = flatten(MODEL.logical_axes())

    def expected(axis: str, stack: str = "", by_layer: bool = False) -> np.ndarray:
        total = 0.0
        for path, values in leaves.items():
            names = axes[path]
            if path.startswith(stack) and axis in names:
                kept = [axis, "layers"] if by_layer else [axis]
                others = tuple(i for i, name in enumerate(names) if name not in kept)
                total = total + values.sum(axis=others)
        return np.asarray(total)

    np.testing.assert_allclose(scores["embed"], expected("embed"))
    np.testing.assert_allclose(scores["decoder/heads"], expected("heads", "decoder", True))
    np.testing.assert_allclose(scores["encoder/mlp"], expected("mlp", "encoder", True))
    np.testing.assert_allclose(scores["decoder/layers"], expected("layers", "decoder"))


def test_scores_do_not_depend_on_how_layers_lie() -> None:
    scanned = score("magnitude", Subject(MODEL, reader(PARAMS)), KEYS)
    unrolled = score("magnitude", Subject(MODEL.replace(scan_layers=False), reader(PARAMS)), KEYS)
    for key in KEYS:
        np.testing.assert_array_equal(scanned[key], unrolled[key])


def test_magnitude_keeps_the_largest_and_maps_to_the_ancestor() -> None:
    root = Plan.identity(MODEL, "ancestor")
    params = random_params(MODEL)
    # Head 3 of decoder layer 2 is large, and channel 6: positions 1 and 3 in the pruned model.
    params["decoder"]["layers"]["self_attention"]["out"]["kernel"][2, 3] += 10
    params["token_embedder"]["embedding"][:, 6] += 10
    parent = root.drop_layers({"decoder": [0]}).narrow({"embed": [1, 2, 3, 6, 7]})
    loaded = take(params, MODEL.logical_axes(), relative(parent, root))

    def scorer(method, keys):
        return score("magnitude", Subject(pruned_model(parent), reader(loaded)), keys)

    stage = Stage("s", embed=1, heads=1, method="magnitude")
    child = apply_stage(stage, parent, scorer=scorer)
    assert child.indices("embed") == (6,)
    assert child.rows("decoder/heads")[2] == (3,)
    assert child.rows("decoder/heads")[0] == ()
    assert 0.5 < child.steps[-1]["kept_share"]["embed"] < 1
    assert child.steps[-1]["sizes"]["embed"] == [5, 1]
    assert pruned_model(child).config.num_heads == 1


def test_values_that_are_not_finite_are_named() -> None:
    params = random_params(MODEL)
    params["decoder"]["layers"]["mlp"]["wo"]["kernel"][2, 0, 0] = np.nan
    with pytest.raises(UserError, match=r"decoder/layers/mlp/wo/kernel\[2\] holds NaN"):
        score("magnitude", Subject(MODEL, reader(params)), KEYS)


def test_a_criterion_is_a_function_and_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openba_jax.pruning.criteria.base.CRITERIA", dict(base.CRITERIA))

    @criterion("first")
    def first(subject: Subject, keys):
        return {key: -np.arange(subject.axes.sizes[key], dtype=np.float64) for key in keys}

    root = Plan.identity(MODEL, "ancestor")
    stage = Stage("s", embed=3, method="magnitude")
    scorer = lambda _, keys: score("first", Subject(MODEL, reader(PARAMS)), keys)  # noqa: E731
    assert apply_stage(stage, root, scorer=scorer).indices("embed") == (0, 1, 2)

    @criterion("nowhere")
    def nowhere(subject: Subject, keys):
        return {key: np.full(subject.axes.sizes[key], np.inf) for key in keys}

    with pytest.raises(UserError, match="scores of embed by nowhere are not finite"):
        score("nowhere", Subject(MODEL, reader(PARAMS)), ["embed"])
