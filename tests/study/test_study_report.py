"""What a study reports of cells: tables, sentences, and what is missing."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from openba_jax.study import origin, report, summary
from openba_jax.study.summary import Results

ANCESTOR = {"loss": 0.5, "losses": {"r": 0.4, "s": 0.6}, "parameters": 900}


def _cell(recipe: str, seed: int, losses: list[float], tokens: int = 40, **more) -> dict[str, Any]:
    evaluated = [tokens * n // (len(losses) - 1) for n in range(len(losses))]
    return {
        "recipe": recipe,
        "tokens": tokens,
        "seed": seed,
        "parameters": 300,
        "flops": 1e9,
        "loss_before": 0.5,
        "loss_cut": losses[0],
        "loss": losses[-1],
        "curves": [{"name": "cut", "start": 0, "tokens": evaluated, "losses": losses}],
        "losses": {"r": losses[-1], "s": losses[-1] + 0.1},
        **more,
    }


SLOW = [[4.0, 2.0, 1.5, 1.2, 1.0], [4.1, 2.1, 1.6, 1.3, 1.1], [4.2, 2.0, 1.4, 1.1, 0.9]]
FAST = [[3.0, 1.2, 0.9, 0.8, 0.7], [3.1, 1.3, 1.0, 0.9, 0.8], [3.0, 1.1, 0.8, 0.7, 0.6]]
CELLS = [
    _cell(name, seed, losses)
    for name, runs in (("slow", SLOW), ("fast", FAST))
    for seed, losses in enumerate(runs)
]
RESULTS = Results(ANCESTOR, CELLS, ["slow", "fast"], "slow", [])


def test_recipes_are_compared_seed_by_seed() -> None:
    slow, fast = summary.lines(RESULTS)
    assert slow.difference is None
    assert slow.excess is None
    assert fast.excess.mean.value == pytest.approx((2.5 / 3.5 * 2.6 / 3.6 * 2.5 / 3.7) ** (1 / 3))
    assert fast.difference.value == pytest.approx(-0.3)
    # Between evaluations at 10 and 20 of 40 tokens, from 1.2 to 0.9, 1.0 lies at 2/3.
    first = (10 + 10 * 2 / 3) / 40
    assert fast.reach.mean.value == pytest.approx(first, rel=0.15)
    assert fast.reach.mean.high < 1
    (unmoved,) = summary.statements(RESULTS)
    assert unmoved.startswith("fast against slow: no seed changes the difference (-0.300)")
    assert unmoved.endswith("nothing is decided.")
    moved = [*CELLS[:-1], _cell("fast", 2, [*FAST[2][:-1], 0.61])]
    assert summary.statements(Results(ANCESTOR, moved, ["slow", "fast"], "slow", [])) == [
        "fast against slow: the loss is lower (the interval excludes 0)."
    ]


def test_a_baseline_that_is_not_reached_is_said_so() -> None:
    swapped = Results(ANCESTOR, CELLS, ["slow", "fast"], "fast", [])
    assert "reached by 0 of 3 seeds, at least 1.00" in report.as_markdown(
        swapped, report.tables(swapped), []
    )


def test_one_seed_decides_nothing() -> None:
    one = Results(ANCESTOR, [CELLS[0], CELLS[3]], ["slow", "fast"], "slow", ["slow.40.1"])
    assert "one seed tells no interval" in summary.statements(one)[0]
    table = report.tables(one)[0].rows
    assert table[1][5] == "1.000"
    assert "[" not in "".join(table[2])


def test_curves_that_cross_are_named() -> None:
    longer = [
        _cell(name, seed, [*losses[:-1], losses[-1] + change * (1 + seed / 50)], tokens=80)
        for name, runs, change in (("slow", SLOW, -0.5), ("fast", FAST, 0.1))
        for seed, losses in enumerate(runs)
    ]
    crossing = Results(ANCESTOR, [*CELLS, *longer], ["slow", "fast"], "slow", [])
    *_, crossed, fewer, own = summary.statements(crossing)
    assert crossed.startswith("fast crosses slow between 40 and 80 tokens, at about 56 ")
    assert fewer == (
        "fast with 50% of the tokens against slow with all 80: the loss is higher "
        "(+0.210 [+0.185, +0.235])."
    )
    assert own == (
        "fast, trained anew for each number of tokens, ends where slow does with 80: in 0 of 3 "
        "seeds."
    )


def test_trainings_of_their_own_are_compared_with_the_longest_of_the_baseline() -> None:
    # At 40 tokens 0.2 above what slow ends with at 80, and there 0.2 below: halfway on a
    # logarithmic scale.
    longer = [
        _cell(name, seed, [*losses[:-1], losses[-1] + change], tokens=80)
        for name, runs, change in (("slow", SLOW, -0.5), ("fast", FAST, -0.4))
        for seed, losses in enumerate(runs)
    ]
    results = Results(ANCESTOR, [*CELLS, *longer], ["slow", "fast"], "slow", [])
    found = summary.own_schedules(results, "fast")
    assert found is not None
    assert found.mean is not None
    assert found.mean.value == pytest.approx(2**-0.5)
    assert summary.statements(results)[-1] == (
        "fast, trained anew for each number of tokens, ends where slow does with 80 after 0.71 "
        "[0.71, 0.71] of them."
    )
    assert summary.own_schedules(results, "slow") is None
    assert summary.own_schedules(RESULTS, "fast") is None


def test_a_training_that_ends_there_with_the_fewest_tokens_is_a_bound() -> None:
    longer = [
        _cell(name, seed, losses, tokens=80)
        for name, runs in (("slow", SLOW), ("fast", FAST))
        for seed, losses in enumerate(runs)
    ]
    results = Results(ANCESTOR, [*CELLS, *longer], ["slow", "fast"], "slow", [])
    assert (
        "after 0.50 [0.50, 0.50] of them; fewer than 0.50 were not tried"
        in (summary.statements(results)[-1])
    )


def test_the_report_names_what_made_the_figures() -> None:
    here = origin.origin()
    assert set(here) == {"openba_jax", "jax", "devices", "machine"}
    assert all(here.values())
    other = {**here, "machine": "another"}
    assert origin.sentences([{"origin": here}]) == [
        f"Made by openba_jax {here['openba_jax']}, jax {here['jax']}, {here['devices']}, "
        f"{here['machine']}."
    ]
    both = origin.sentences([{"origin": here}, {"origin": other}, {}])
    assert [line.split()[0] for line in both] == ["1", "1", "1"]
    assert both[1].endswith("another.")
    assert "not written down" in both[2]


def test_accuracies_count_every_question_once() -> None:
    def scores(right: int) -> dict[str, Any]:
        of = {"right": right, "count": 50, "chance": 0.25}
        return {"subjects": {"metals": of}, "total": of}

    cells = [{"scores": scores(10)}, {"scores": scores(20)}]
    found = summary.accuracies(cells)["metals"]
    assert found.share == pytest.approx(0.3)
    assert found.questions == 50
    assert found.low == pytest.approx(0.191, abs=1e-3)
    assert summary.accuracies([{}]) == {}


def test_the_report_says_what_is_missing_and_needs_nothing_else(tmp_path: Path) -> None:
    part = Results(ANCESTOR, CELLS[:4], ["slow", "fast"], "slow", ["fast.40.1", "fast.40.2"])
    text = report.write(tmp_path, part)
    for shown in (text, *((tmp_path / f"report.{kind}").read_text() for kind in ("md", "html"))):
        assert "2 of 6 cells are missing (fast.40.1, fast.40.2)" in shown
    page = (tmp_path / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 2
    assert not re.search(r'(src|href)="(?!data:)', page)
    for plot in (report.CURVES, report.ENDS):
        assert (tmp_path / plot).read_bytes().startswith(b"\x89PNG")


def test_nothing_is_a_report_too(tmp_path: Path) -> None:
    text = report.write(tmp_path, Results(ANCESTOR, [], ["a"], "a", ["a.1.0"]))
    assert text == "Not finished: 1 of 1 cells are missing (a.1.0).\n"
    assert not (tmp_path / report.CURVES).exists()
