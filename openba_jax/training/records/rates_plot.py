"""Draws how D-UL2's rates and losses moved, at the end of a run."""

from __future__ import annotations

from pathlib import Path

from openba_jax.errors import UserError
from openba_jax.plotting.picture import MARK, label_ends, logarithmic, look, picture, titles
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
    steps = [record["step"] for record in records]
    names = [key.removeprefix("rate/") for key in records[0] if key.startswith("rate/")]
    path = folder / PLOT
    with picture(path, height=0.8, nrows=2, sharex=True) as (_, (above, below)):
        rates, losses = [], []
        for number, name in enumerate(names):
            style = {**look(number), "linewidth": 1.5}
            rates += above.plot(steps, [record[f"rate/{name}"] for record in records], **style)
            # What the rule sees: how far each denoiser is from its target.
            excess = [record[f"loss/{name}"] - record[f"target/{name}"] for record in records]
            losses += below.plot(steps, excess, **style)
        below.axhline(0, color=MARK, linewidth=0.8)
        logarithmic(above, "y", "share of the samples")
        below.set_ylabel("loss above target, nats per token")
        below.set_xlabel("step")
        titles([above], ["D-UL2: the rates of the denoisers follow their losses"])
        titles([below], ["How far each denoiser is from its target"])
        label_ends(above, rates, names)
        label_ends(below, losses, names)
    return path
