"""`openba-score`, and `openba-prune` by what it wrote."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest_plugins = ["tiny_ancestor"]

TEXT = ("--calibration_lengths=48,24", "--calibration_batch_size=8", "--calibration_batches=2")


def run(module: str, *flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", f"openba_jax.{module}", *flags],
        capture_output=True,
        text=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )


@pytest.fixture(scope="module")
def stores(tokenizer: Path) -> str:
    return f"--calibration_stores={tokenizer.parent / 'spans'}"


@pytest.fixture(scope="module")
def scored(ancestor: Path, stores: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("scores") / "scores.npz"
    methods = "--method=taylor,layers=block_influence"
    done = run("pruning", f"--input={ancestor}", f"--output={file}", methods, stores, *TEXT)
    assert done.returncode == 0, done.stderr
    assert "decoder/layers by block_influence" in done.stdout
    return file


def test_cutting_by_saved_scores_is_cutting_by_fresh_ones(
    ancestor: Path, scored: Path, stores: str, tmp_path: Path
) -> None:
    flags = f"--input={ancestor}", "--method=taylor,layers=block_influence", "--mlp=40"
    flags += ("--sizes=decoder/layers=2",)
    saved = run("prune", *flags, f"--output={tmp_path}/saved", f"--scores={scored}")
    assert saved.returncode == 0, saved.stderr
    fresh = run(
        *("prune", *flags, f"--output={tmp_path}/fresh", "--compensation=ridge", stores, *TEXT)
    )
    assert fresh.returncode == 0, fresh.stderr
    plans = [json.loads((tmp_path / name / "plan.json").read_text()) for name in ("saved", "fresh")]
    assert plans[0]["keep"] == plans[1]["keep"]
    record = plans[1]["steps"][-1]
    assert record["compensation"] == "ridge"
    assert record["error_after"] < record["error_before"]
    with np.load(scored) as whole, np.load(tmp_path / "fresh" / "scores.npz") as chosen:
        np.testing.assert_allclose(chosen["decoder.mlp"], whole["decoder.mlp"], rtol=1e-4)
        assert "embed" not in chosen.files


def test_scores_that_do_not_fit_are_refused(
    ancestor: Path, scored: Path, stores: str, tmp_path: Path
) -> None:
    def refused(module: str, *flags: str) -> str:
        done = run(module, f"--input={ancestor}", f"--output={tmp_path}/out", *flags)
        assert done.returncode == 2
        assert "Traceback" not in done.stderr
        assert not (tmp_path / "out").exists()
        return done.stderr

    by = f"--scores={scored}"
    assert "by taylor, and fisher is asked for" in refused(
        "prune", by, "--mlp=4", "--method=fisher"
    )
    assert "needs text to look at" in refused("prune", "--mlp=4", "--method=taylor")
    store = stores.partition("=")[2]
    lost = run("pruning", f"--input={ancestor}", f"--output={store}.json", stores, *TEXT)
    assert lost.returncode == 2
    assert "the token store, which is only read" in lost.stderr
    (tmp_path / "notes").write_text("mine")
    lost = run("pruning", f"--input={ancestor}", f"--output={tmp_path}/notes", stores, *TEXT)
    assert lost.returncode == 2
    assert "notes is no file of scores" in lost.stderr
    assert (tmp_path / "notes").read_text() == "mine"
    assert "needs text to fit on" in refused("prune", "--mlp=4", "--compensation=ridge")
    assert "--calibration_seed without --calibration_stores" in refused(
        "prune", "--mlp=4", "--calibration_seed=3"
    )
    assert "did you mean activation?" in refused("prune", "--mlp=4", "--method=activations")
    (tmp_path / "none.npz").write_bytes(b"PK")
    assert "is no file of scores" in refused("prune", f"--scores={tmp_path}/none.npz", "--mlp=4")
    small = run("prune", f"--input={ancestor}", f"--output={tmp_path}/small", "--mlp=40")
    assert small.returncode == 0, small.stderr
    other = run(
        *("prune", f"--input={tmp_path}/small", f"--output={tmp_path}/out", by, "--mlp=4"),
        "--method=taylor",
    )
    assert "has the scores of another checkpoint" in other.stderr
    assert "activation scores no layers" in refused("pruning", "--method=activation", stores, *TEXT)
    assert "no axis 'mpl' that can be cut; did you mean mlp?" in refused("pruning", "--axes=mpl")
