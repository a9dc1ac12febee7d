"""Draws how D-UL2's rates and losses moved, at the end of a run."""

from __future__ import annotations

from pathlib import Path

from openba_jax.errors import UserError
from openba_jax.files import atomic_path
from openba_jax.training.records import metrics

PLOT = "rates.png"
SPLIT = "denoisers"
"""The records of the log that hold the denoisers' losses and rates."""


def plot_rates(folder: str | Path) -> Path:
    """Draws the log of a model folder into `rates.png` there; returns its path.

    Raises:
      UserError: the log has no rates.
    """
    folder = Path(folder)
    records = [r for r in metrics.read(folder / metrics.METRICS) if r["split"] == SPLIT]
    if not records:
        raise UserError(f"{folder / metrics.METRICS} has no rates; only D-UL2 runs write them.")
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    steps = [record["step"] for record in records]
    figure, (above, below) = pyplot.subplots(2, 1, sharex=True, figsize=(8, 7))
    for key in records[0]:
        what, _, name = key.partition("/")
        values = [record[key] for record in records]
        if what == "rate":
            above.plot(steps, values, label=name, linewidth=1.5)
        elif what == "loss":
            # What the rule sees: how far each denoiser is from its target.
            excess = [record[key] - record[f"target/{name}"] for record in records]
            below.plot(steps, excess, label=name, linewidth=1.5)
    above.set_ylabel("share of the samples")
    above.set_title("D-UL2: the denoisers' rates follow their losses", loc="left")
    above.legend(fontsize=8, frameon=False, ncols=2)
    below.axhline(0, color="grey", linewidth=0.8)
    below.set_ylabel("loss above target, nats per token")
    below.set_xlabel("step")
    path = folder / PLOT
    with atomic_path(path) as file:
        figure.savefig(file, format="png", dpi=120, bbox_inches="tight", metadata={"Software": ""})
    pyplot.close(figure)
    return path
