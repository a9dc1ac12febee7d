"""What a run records besides what it must."""

from __future__ import annotations

import dataclasses

from openba_jax.training.records.trackers import check_tracker


@dataclasses.dataclass(frozen=True)
class Telemetry:
    """What a run records besides its losses and its speed.

    Attributes:
      task_losses: the loss of each task of the mixture, such as a denoiser.
      gradient_norms: the norm of the gradient of each block, such as the layers of the encoder.
      tracker: `wandb` or `trackio`, which get all records, too; "": none.
      project: what runs are shown together with there.
    """

    task_losses: bool = False
    gradient_norms: bool = False
    tracker: str = ""
    project: str = "openba_jax"

    def __post_init__(self) -> None:
        """Checks the tracker.

        Raises:
          UserError: it is unknown or not installed.
        """
        check_tracker(self.tracker)
