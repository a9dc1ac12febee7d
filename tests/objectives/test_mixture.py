import pytest

from openba_jax.errors import UserError
from openba_jax.objectives import mixture, ul2
from openba_jax.objectives.mixture import Mixture, Task


def test_ul2_has_the_seven_denoisers_at_equal_rates():
    ul2_mixture = mixture.get_mixture("ul2")
    assert len(set(ul2_mixture.rates)) == 1
    assert [task.objective for task in ul2_mixture.tasks] == list(ul2.DENOISERS.values())
    assert {task.kind for task in ul2_mixture.tasks} == {"text"}


def test_a_task_is_a_mixture_of_itself():
    alone = mixture.get_mixture("ul2_x64_low")
    assert alone.components == ((alone.tasks[0], 1.0),)
    assert alone.tasks[0] in mixture.UL2_TASKS
    assert mixture.get_mixture("flan").tasks[0].kind == "instructions"


def test_unknown_names_list_the_known():
    with pytest.raises(UserError, match=r"'ul3'.*ul2_r3.*flan"):
        mixture.get_mixture("ul3")


def test_a_name_has_one_meaning():
    with pytest.raises(UserError, match="ul2_r3 is known already"):
        mixture.register(Mixture("other", ((Task("ul2_r3", ul2.SPAN_CORRUPTION), 1.0),)))


@pytest.mark.parametrize("rates", [(0, 0), (-1, 2), (1, float("inf")), (1, float("nan"))])
def test_impossible_rates(rates):
    tasks = mixture.UL2_TASKS[:2]
    with pytest.raises(UserError, match="rates"):
        Mixture("bad", tuple(zip(tasks, rates, strict=True)))


def test_a_mixture_needs_different_tasks():
    with pytest.raises(UserError, match="each of them once"):
        Mixture("twice", ((mixture.UL2_TASKS[0], 1.0), (mixture.UL2_TASKS[0], 1.0)))
