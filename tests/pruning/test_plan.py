from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from plan_strategies import CONFIG, MODEL, chains, compose, keeps

from openba_jax.errors import UserError
from openba_jax.models.registry import model_from_dict, model_of, named_config
from openba_jax.pruning.plan import Plan, pruned_model, relative

ROOT = Plan.identity(MODEL, "ancestor")


def compose_or_skip(first: Plan, second: Plan) -> Plan:
    # The second plan may keep padding rows of the first's vocabulary as if they were rows of text.
    rows = [first.indices("vocab")[i] for i in second.indices("vocab")]
    assume(len(set(rows)) == len({*second.indices("vocab")}))
    return compose(first, second)


@settings(deadline=None, max_examples=30)
@given(chains(3))
def test_composing_is_associative(plans: list[Plan]) -> None:
    first, second, third = plans
    left = compose_or_skip(compose_or_skip(first, second), third)
    right = compose_or_skip(first, compose_or_skip(second, third))
    assert left == right
    assert [step["n"] for step in left.steps] == [0, 1, 2]
    assert pruned_model(left) == pruned_model(third)


@settings(deadline=None, max_examples=30)
@given(chains(1))
def test_identity_is_neutral(plans: list[Plan]) -> None:
    (plan,) = plans
    assert compose(ROOT, plan) == plan
    assert compose(plan, Plan.identity(pruned_model(plan), "later")) == plan


@settings(deadline=None, max_examples=30)
@given(chains(2))
def test_relative_is_what_to_ancestor_translates_back(plans: list[Plan]) -> None:
    parent, step = plans
    child = compose_or_skip(parent, step)
    keep = relative(child, parent)
    assert parent.narrow(parent.to_ancestor(keep)).keep == child.keep
    inner = Plan(pruned_model(parent).config.to_dict(), "", keep)
    assert pruned_model(inner) == pruned_model(child)
    assert relative(child, child) == {}
    assert relative(child, ROOT) == child.keep


@settings(deadline=None, max_examples=20)
@given(chains(1))
def test_json_round_trip(plans: list[Plan]) -> None:
    (plan,) = plans
    assert Plan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan


@settings(deadline=None, max_examples=20)
@given(keeps(CONFIG), st.integers(0, CONFIG.decoder_layers - 1))
def test_layers_and_width_commute(keep: dict, drop: int) -> None:
    width = {key: kept for key, kept in keep.items() if not key.endswith("/layers")}
    width_first = ROOT.narrow(width).drop_layers({"decoder": [drop]})
    assert ROOT.drop_layers({"decoder": [drop]}).narrow(width).keep == width_first.keep


def test_equal_pruning_is_equal() -> None:
    assert ROOT.narrow({"embed": range(8), "encoder/mlp": [range(6)] * 3}).keep == {}
    per_layer = ROOT.narrow(
        {"encoder/heads": [[0, 1]] * 3, "decoder/heads": np.asarray([[0, 1]] * 4)}
    )
    assert per_layer == ROOT.narrow({"encoder/heads": [0, 1], "decoder/heads": [0, 1]})
    dropped = ROOT.drop_layers({"encoder": [1]}).narrow(
        {"encoder/heads": [[0, 1], [2, 3], [1, 2]], "decoder/heads": [0, 3]}
    )
    assert dropped.keep["encoder/heads"] == ((0, 1), (), (1, 2))
    assert dropped.rows("decoder/heads") == ((0, 3),) * 4


def test_drops_layers_in_the_numbering_of_the_ancestor() -> None:
    plan = Plan.identity(model_of(named_config("openba_15b")), "openba")
    plan = plan.drop_layers({"encoder": [4, 8], "decoder": [7, 11, 18, 20, 22, 30]})
    later = plan.drop_layers({"encoder": [6, 10], "decoder": [4, 16, 27]})
    keep = relative(later, plan)
    # What the original tool is told, in the numbering of the loaded model.
    assert sorted(set(range(10)) - set(keep["encoder/layers"])) == [5, 8]
    assert sorted(set(range(30)) - set(keep["decoder/layers"])) == [4, 14, 22]
    one_based = Plan.identity(model_of(named_config("openba_15b")), "openba").drop_layers(
        {"encoder": [5, 9], "decoder": [8, 12, 19, 21, 23, 31]}, one_based=True
    )
    assert one_based == plan


def test_pruned_config_changes_sizes_only() -> None:
    plan = ROOT.narrow({"vocab": [3, 1, 0, 7, 1, 1]})
    plan = plan.drop_layers({"encoder": [0], "decoder": [1, 2]})
    width = {"embed": [0, 7], "encoder/heads": [1], "decoder/heads": [2]}
    plan = plan.narrow(width, stage="width")
    assert pruned_model(plan) == MODEL.replace(
        vocab_size=6, embed_dim=2, num_heads=1, encoder_layers=2, decoder_layers=2
    )
    assert [step["stage"] for step in plan.steps if "stage" in step] == ["", "width"]


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        ({"embed": [0, 8]}, r"embed .* names 8; the model has 0 to 7"),
        ({"embed": [-1, 2]}, "names -1"),
        ({"embed": [1, 1]}, "names 1 more than once"),
        ({"embed": [2, 1]}, "ascending"),
        ({"embed": []}, "keeps nothing"),
        ({"embed": [0, 1.5]}, "whole numbers"),
        ({"embed": None}, "whole numbers"),
        ({"kv": [0]}, "unknown keys"),
        ({"vocab": [1, 1, 2]}, "names 1 more than once"),
        ({"vocab": [0, 1, 2, 1, 2]}, "names 1 more than once"),
        ({"encoder/mlp": [[0], [1]]}, "2 lists for 3 layers"),
        ({"encoder/mlp": [[0], [1], [0, 1]]}, r"unequal sizes \[1, 1, 2\]"),
        ({"encoder/mlp": [[0], [1], [6]]}, "encoder/mlp, layer 2, .* names 6"),
        ({"encoder/mlp": [0, 1]}, "2 in encoder/mlp and 6 in decoder/mlp"),
        ({"encoder/layers": [0, 3]}, "names 3"),
    ],
)
def test_refuses_invalid_lists(keep: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Plan(CONFIG.to_dict(), "ancestor", keep)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"numbers": {"encoder": [3]}}, "encoder layer 3 does not exist; .* layers 0 to 2"),
        (
            {"numbers": {"decoder": [0]}, "one_based": True},
            "decoder layer 0 does not exist; .* layers 1 to 4",
        ),
        ({"numbers": {"decoder": [2, 2]}}, "decoder layer 2 is to be dropped twice"),
        (
            {"numbers": {"decoder": [5]}, "one_based": True},
            "decoder layer 5 does not exist; .* layers 1 to 4",
        ),
        ({"numbers": {"decoder": [1]}}, r"decoder layer 1 is dropped already; .* \[0, 2, 3\]"),
        ({"numbers": {"body": [0]}}, "no stack 'body'"),
        ({"numbers": {"encoder": [0, 1, 2]}}, "no encoder layer would be left"),
    ],
)
def test_refuses_layers_that_are_not_there(arguments: dict, message: str) -> None:
    plan = ROOT.drop_layers({"decoder": [1]})
    with pytest.raises(UserError, match=message):
        plan.drop_layers(**arguments)


def test_refuses_to_bring_back_what_is_pruned() -> None:
    plan = ROOT.narrow({"embed": [0, 2, 4]})
    with pytest.raises(UserError, match="keeps embed 3, which was pruned before"):
        plan.narrow({"embed": [2, 3]})
    with pytest.raises(UserError, match="keeps embed 1, which was pruned before"):
        relative(ROOT, plan)
    with pytest.raises(UserError, match="different ancestors"):
        relative(plan, Plan.identity(MODEL, "another"))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ([], "exactly the fields"),
        ({"ancestor": {}, "source": "", "keep": {}}, "exactly the fields"),
        ({"ancestor": {}, "source": "", "keep": {}, "steps": []}, "incomplete"),
        ({"ancestor": {}, "source": "", "keep": [], "steps": []}, "keep .* not a JSON"),
        ({"ancestor": {"family": "x"}, "source": "", "keep": {}, "steps": []}, "called 'x'"),
    ],
)
def test_refuses_fields_that_make_no_plan(fields: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Plan.from_dict(fields)


def test_plans_of_earlier_versions_are_read() -> None:
    fields = ROOT.drop_layers({"decoder": [1]}).to_dict()
    config = dict(fields.pop("ancestor"))
    del config["family"]
    assert Plan.from_dict({"root": config, **fields}) == Plan.from_dict(
        {"ancestor": config, **fields}
    )
    assert model_from_dict(config) == MODEL == pruned_model(ROOT)
