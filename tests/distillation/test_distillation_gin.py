"""The settings as gin files name them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

import gin
from openba_jax.distillation.settings import Distillation, linear_weight, value_at
from openba_jax.errors import UserError
from openba_jax.training import gin_bindings

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def clean_gin() -> Iterator[None]:
    gin.clear_config()
    gin.add_config_file_search_path(str(REPOSITORY))
    gin.parse_config_file("gin/runs/native/recover.gin")
    yield
    gin.clear_config()


def test_without_a_teacher_there_is_none() -> None:
    assert gin_bindings.distillation() is None
    gin.parse_config("DISTILLATION_WEIGHT = 1.0")
    with pytest.raises(UserError, match=r"TEACHER is empty; name a model folder"):
        gin_bindings.distillation()


def test_a_teacher_and_a_schedule() -> None:
    gin.parse_config("""
        TEACHER = 'runs/ancestor'
        DISTILLATION_LOSS = 'js'
        DISTILLATION_WEIGHT = @cosine_weight()
        cosine_weight.start = 1.0
        cosine_weight.end = 0.5
        cosine_weight.steps = 1000
    """)
    found = gin_bindings.distillation()
    assert isinstance(found, Distillation)
    assert (found.teacher, found.divergence) == ("runs/ancestor", "js")
    assert callable(found.weight)
    assert [float(found.weight(step)) for step in (0, 500, 1000, 2000)] == [1.0, 0.75, 0.5, 0.5]


def test_a_schedule_without_steps_lasts_as_long_as_the_run() -> None:
    gin.parse_config("""
        TEACHER = 'runs/ancestor'
        DISTILLATION_HIDDEN_WEIGHT = @linear_weight()
        linear_weight.start = 40.0
        linear_weight.end = 1.0
    """)
    found = gin_bindings.distillation()
    assert found is not None
    assert callable(found.hidden_weight)
    assert found.compares_hidden
    with pytest.raises(UserError, match="give the steps of its schedule"):
        found.hidden_weight(0)
    lasting = found.of_length(200)
    assert lasting == dataclasses.replace(found, hidden_weight=linear_weight(40.0, 1.0, 200))
    assert [float(value_at(lasting.hidden_weight, step)) for step in (0, 200)] == [40.0, 1.0]
    assert found.identity() != lasting.identity()
    assert (
        found.identity()
        != dataclasses.replace(found, hidden_weight=linear_weight(40.0, 2.0)).identity()
    )


@pytest.mark.parametrize(
    ("binding", "message"),
    [
        ("DISTILLATION_WEIGHT = 'half'", "distillation.weight is 'half'; it must be of the type"),
        ("DISTILLATION_LOSS = 'kl'", "the divergence 'kl' is unknown"),
        ("DISTILLATION_WEIGHT = @linear_weight()\nlinear_weight.steps = 0", "in 0 steps"),
    ],
)
def test_mistakes_are_named(binding: str, message: str) -> None:
    gin.parse_config(
        "TEACHER = 'runs/ancestor'\nlinear_weight.start = 1.0\nlinear_weight.end = 0.5"
    )
    gin.parse_config(binding)
    with pytest.raises(UserError, match=message):
        gin_bindings.distillation()
