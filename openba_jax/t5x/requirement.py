"""T5X is not on PyPI: says how to get it, and whether the one that is there is known to fit."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

from openba_jax.errors import UserError

COMMIT = "cc342d419ec3e3e9c4bf1df33c82330cafdc1e16"
"""The commit of google-research/t5x that the tests run against."""

_INSTALL = (
    "pip install --no-deps -r requirements/t5x.txt, or put a checkout on PYTHONPATH (docs/t5x.md)"
)

_CONTRACT = {
    "models.EncoderDecoderModel._compute_kv_cache": (
        "encoded_inputs encoder_input_tokens decoder_input_tokens prefill_decoder_prompt"
    ),
    "models.EncoderDecoderModel.score_batch": "params batch return_intermediates",
    "models.DecoderOnlyModel.predict_batch_with_aux": (
        "params batch rng return_all_decodes num_decodes decoder_params"
    ),
    "trainer.Trainer.__init__": "learning_rate_fn num_microbatches weight_metrics_computer",
    "optimizers.OptaxWrapper.derive_logical_axes": "optimizer param_logical_axes",
    "partitioning.PjitPartitioner.partition": "in_axis_resources out_axis_resources",
    "utils.RestoreCheckpointConfig.__init__": "mode state_transformation_fns fallback_to_scratch",
}
"""What the bridge overrides or hands over, and the arguments that it counts on.

T5X's version is `0.0.0` for ever, so that the only version to ask about is what it can do.
"""


def require_t5x() -> None:
    """Checks that T5X is there and has what the bridge builds on.

    Raises:
      UserError: T5X cannot be imported, or it is another than the one that is known.
    """
    for name, arguments in _CONTRACT.items():
        module, *path = name.split(".")
        try:
            found: Any = importlib.import_module(f"t5x.{module}")
        except ImportError as error:
            raise UserError(f"T5X cannot be imported ({error}); {_INSTALL}.") from error
        for part in path:
            found = getattr(found, part, None)
        known = set(inspect.signature(found).parameters) if callable(found) else set()
        missing = sorted(set(arguments.split()) - known)
        if missing:
            raise UserError(
                f"this T5X is unknown: its {name} has no {', '.join(missing)}; the bridge was "
                f"tested with commit {COMMIT[:7]}: {_INSTALL}."
            )
