"""The report: claims that hold, claims that do not, and the table."""

from __future__ import annotations

import dataclasses

import pytest

from openba_jax.staged import report
from openba_jax.staged.report import Row

ROWS = (
    Row("ancestor", 1000, 1e9, 80, loss_recovered=1.0, accuracy_tuned=0.85),
    Row("cut", 600, 6e8, 20, 1.0, 2.0, 1.2),
    Row("last", 290, 3e8, 20, 1.2, 1.9, 1.3, accuracy_tuned=0.75),
    Row("at_once", 290, 3e8, 40, 1.0, 5.0, 1.4, control=True),
    Row("scratch", 290, 3e8, 40, loss_recovered=2.0, control=True),
)


def _holding(rows: tuple[Row, ...]) -> list[bool]:
    return [finding.holds for finding in report.findings(rows, 0.25, "last")]


def _changed(name: str, **changes: float) -> tuple[Row, ...]:
    return tuple(dataclasses.replace(row, **changes) if row.name == name else row for row in ROWS)


def test_every_claim_is_reported_with_its_figures() -> None:
    found = report.findings(ROWS, 0.25, "last")
    assert [finding.holds for finding in found] == [True] * 5
    claims = [str(finding.claim) for finding in found[1:4]]
    assert claims == [
        "last ends with a lower loss than at_once",
        "last ends with a lower loss than scratch",
        "at_once ends with a lower loss than scratch",
    ]
    assert str(found[1].figures) == "1.300 against 1.400"
    assert str(found[4].figures) == (
        "29.0% of the parameters keep 83.3%: 75.0% against 85.0%, chance 25.0%"
    )


@pytest.mark.parametrize(
    ("name", "changes", "expected"),
    [
        ("cut", {"loss_recovered": 2.0}, [False, True, True, True, True]),
        ("last", {"loss_recovered": 1.5}, [True, False, True, True, True]),
        ("at_once", {"loss_recovered": 2.5}, [True, True, True, False, True]),
        ("last", {"accuracy_tuned": 0.72}, [True, True, True, True, False]),
        ("last", {"parameters": 301}, [True, True, True, True, False]),
    ],
)
def test_claims_that_fail_stay_in_the_report(name, changes, expected) -> None:
    rows = _changed(name, **changes)
    assert _holding(rows) == expected
    found = report.findings(rows, 0.25, "last")
    assert report.as_text(rows, found).count("\nNO ") == 1
    assert report.as_markdown(rows, found, []).count("**no**") == 1
    assert report.as_dict(rows, found, [], {})["findings"][1]["holds"] is expected[1]


def test_table_has_a_line_for_each_model_and_a_dash_for_what_does_not_apply() -> None:
    lines = report.table(ROWS)
    assert [line[0] for line in lines[1:]] == [row.name for row in ROWS]
    assert lines[2][1:8] == ["600", "60.0%", "0.6", "20", "1.000", "2.000", "1.200"]
    assert lines[5][5:7] == ["-", "-"]


def test_questions_that_were_skipped_are_reported() -> None:
    skipped = {"ancestor": 0, "cut": 3}
    note = "Questions that do not fit a model count as answered wrongly: cut 3."
    assert note in report.as_text(ROWS, [], skipped)
    assert note in report.as_markdown(ROWS, [], [], skipped)
    assert "Questions" not in report.as_text(ROWS, [], {"ancestor": 0})
