"""D-UL2 in the trainer: measured, logged, plotted, and resumed exactly."""

from __future__ import annotations

import functools
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toy_run import saved_state

from openba_jax.errors import UserError
from openba_jax.objectives import d_ul2
from openba_jax.objectives.mixture import get_mixture
from openba_jax.parallel import sharding
from openba_jax.training import gin_bindings
from openba_jax.training.adaptation import (
    Adaptation,
    measured_losses,
    read_target_losses,
    write_target_losses,
)
from openba_jax.training.records import metrics, rates_plot

HERE = Path(__file__).resolve().parent
NAMES = [task.name for task in get_mixture("d_ul2_code").tasks]


def train(folder: Path, text: Path, **changes: Any) -> Any:
    from toy_run import d_ul2_batches, d_ul2_train

    changes.setdefault("batches", d_ul2_batches(text))
    return d_ul2_train(folder, text, **changes)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `tokenizer.model` and a token store `spans` of random groups."""
    from toy_run import write_toy_store

    folder = tmp_path_factory.mktemp("text")
    write_toy_store(folder)
    return folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, text: Path) -> Any:
    return train(tmp_path_factory.mktemp("d_ul2") / "run", text)


def records(result: Any) -> list[dict[str, Any]]:
    return [r for r in metrics.read(result.history) if r["split"] == "denoisers"]


def test_rates_follow_the_rule(finished: Any) -> None:
    mixture = get_mixture("d_ul2_code")
    found = records(finished)
    assert [record["step"] for record in found] == [0, 4, 8, 12]
    rates = mixture.rates
    for number, record in enumerate(found):
        losses = [record[f"loss/{name}"] for name in NAMES]
        assert record["mean_loss"] == pytest.approx(np.mean(losses))
        if number:  # The first measurement moves nothing, as in the original.
            rates = mixture.rule(rates, losses, d_ul2.TARGET_LOSSES)
        assert [record[f"rate/{name}"] for name in NAMES] == pytest.approx(rates, abs=1e-7)
    assert rates != pytest.approx(mixture.rates, abs=1e-3)
    _, data = saved_state(finished.model_dir)
    assert data["adaptation"]["target_losses"]["ul2_s"] == 2.106
    assert data["adaptation"]["batches"]["rates"] == pytest.approx(rates, abs=1e-7)
    image = (finished.model_dir / "rates.png").read_bytes()
    assert image.startswith(b"\x89PNG")
    assert len(image) > 10_000


@pytest.mark.parametrize("dies_at", [3, 4, 7, 10])
def test_a_killed_run_goes_on_exactly(
    tmp_path: Path, text: Path, finished: Any, cached_environment: dict[str, str], dies_at: int
) -> None:
    folder = tmp_path / "run"
    program = [sys.executable, str(HERE / "toy_run.py"), str(folder), "{}"]
    environment = {**cached_environment, "TOY_DIES_AT": str(dies_at), "TOY_D_UL2": str(text)}
    killed = subprocess.run(program, env=environment, capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (folder / "rates.png").exists()
    train(folder, text)
    assert (folder / "metrics.jsonl").read_text() == finished.history.read_text()
    _, data = saved_state(folder)
    _, expected = saved_state(finished.model_dir)
    assert data == expected


@pytest.mark.parametrize("content", ["[1.0]", '{"ul2_s": "low"}', '{"ul2_s": NaN}', "{"])
def test_files_that_hold_no_targets(tmp_path: Path, content: str) -> None:
    (tmp_path / "targets.json").write_text(content)
    with pytest.raises(UserError, match=r"targets\.json holds no target losses"):
        read_target_losses(tmp_path / "targets.json")


def test_targets_measured_on_another_model(
    tmp_path: Path, text: Path, finished: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from toy_run import d_ul2_batches

    source = f"{finished.model_dir}/checkpoints/12"
    mixture = get_mixture("d_ul2_paper")
    mesh = sharding.make_mesh((-1, 1, 1))
    losses = measured_losses(source, mixture, d_ul2_batches(text), mesh, 1)
    last = records(finished)[-1]
    assert losses == pytest.approx({name: last[f"loss/{name}"] for name in NAMES}, abs=1e-5)
    write_target_losses(tmp_path / "targets.json", losses)
    assert read_target_losses(tmp_path / "targets.json") == losses
    runs = []
    for number, targets in enumerate((source, str(tmp_path / "targets.json"), losses)):
        adaptation = Adaptation(mixture, targets, floor=0.01)
        runs.append(
            records(
                train(
                    tmp_path / f"run{number}",
                    text,
                    batches=d_ul2_batches(text, "d_ul2_paper"),
                    adaptation=adaptation,
                    train_steps=4,
                )
            )
        )
    assert runs[0] == runs[1] == runs[2]
    assert min(runs[0][-1][f"rate/{name}"] for name in NAMES) >= 0.01 - 1e-9


def test_other_targets_are_refused_when_a_run_goes_on(tmp_path: Path, text: Path) -> None:
    mixture = get_mixture("d_ul2_code")
    (tmp_path / "targets.json").write_text(json.dumps(dict.fromkeys(NAMES, 1.5)))
    targets = str(tmp_path / "targets.json")
    train(tmp_path / "run", text, adaptation=Adaptation(mixture, targets), train_steps=2)
    again = functools.partial(train, tmp_path / "run", text, train_steps=4)
    with pytest.raises(UserError, match=r"target_losses\.ul2_r3 was 1\.5 .* is 1\.0 now"):
        again(adaptation=Adaptation(mixture, dict.fromkeys(NAMES, 1.0)))
    with pytest.raises(UserError, match=r"adaptation\.floor was 0\.0 .* is 0\.01 now"):
        again(adaptation=Adaptation(mixture, targets, floor=0.01))
    again(adaptation=Adaptation(mixture, dict.fromkeys(NAMES, 1.5)))  # The same, otherwise said.


def test_mistakes(tmp_path: Path, text: Path) -> None:
    mixture = get_mixture("d_ul2_code")
    with pytest.raises(UserError, match="rates of mixture ul2 are fixed"):
        Adaptation(get_mixture("ul2"))
    for given in ({"target_losses": "losses.json"}, {"floor": 0.1}):
        with pytest.raises(UserError, match="the rates of ul2 are fixed"):
            gin_bindings.adaptation("ul2", **given)
    assert gin_bindings.adaptation("ul2") is None
    with pytest.raises(UserError, match="set EVAL_PERIOD"):
        train(tmp_path / "a", text, eval_every=None)
    with pytest.raises(UserError, match="needs evaluation batches"):
        train(tmp_path / "b", text, eval_batches=0)
    with pytest.raises(UserError, match=r"none\.json cannot be read"):
        train(tmp_path / "c", text, adaptation=Adaptation(mixture, str(tmp_path / "none.json")))
    (tmp_path / "list.json").write_text("[1, 2]")
    with pytest.raises(UserError, match="holds no target losses"):
        train(tmp_path / "d", text, adaptation=Adaptation(mixture, str(tmp_path / "list.json")))
    (tmp_path / "few.json").write_text(json.dumps({"ul2_s": 1.0}))
    with pytest.raises(UserError, match="lack ul2_r3, ul2_r8, ul2_x3"):
        train(tmp_path / "e", text, adaptation=Adaptation(mixture, str(tmp_path / "few.json")))


def test_a_run_without_rates_has_none_to_draw(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no rates"):
        rates_plot.plot_rates(tmp_path)
