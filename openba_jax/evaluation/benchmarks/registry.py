"""The benchmarks by name."""

from __future__ import annotations

import difflib
import importlib
from typing import cast

from openba_jax.errors import UserError
from openba_jax.evaluation.benchmarks.base import PRESETS, Benchmark

_ROOM = "openba_jax.evaluation"
_CHOICES = (
    *("json_choice", "mmlu", "cmmlu", "ceval", "arc_e", "arc_c"),
    *("piqa", "sciq", "logiqa", "boolq"),
)

BENCHMARKS = {
    **{name: f"{_ROOM}.benchmarks.{name}" for name in _CHOICES},
    "bbh": f"{_ROOM}.generation.bbh",
    "gsm8k": f"{_ROOM}.generation.gsm8k",
    "translation": f"{_ROOM}.generation.translation",
    "summarisation": f"{_ROOM}.generation.summarisation",
    "ner": f"{_ROOM}.ner.ner",
    "ner_constrained": f"{_ROOM}.ner.ner_constrained",
}
"""Name of a benchmark -> the module that has its `BENCHMARK`."""


def benchmark(name: str, preset: str = "corrected", shots: int | None = None) -> Benchmark:
    """A benchmark by name.

    Args:
      name: such as `mmlu`, or with a template `mmlu:ppl_5`.
      preset: see `Benchmark.configured`.
      shots: see `Benchmark.configured`.

    Raises:
      UserError: no benchmark has that name, and the message names the nearest; or it has no such
        settings, or there are none.
    """
    if preset not in PRESETS:
        raise UserError(f"PRESET is {preset!r}; it must be one of {', '.join(PRESETS)}.")
    if shots is not None and (not isinstance(shots, int) or isinstance(shots, bool) or shots < 0):
        raise UserError(f"SHOTS is {shots!r}; it must be None or a whole number of at least 0.")
    name, _, template = name.partition(":")
    if name not in BENCHMARKS:
        close = difflib.get_close_matches(name, BENCHMARKS, 1)
        hint = f"did you mean {close[0]}? Known" if close else "known"
        raise UserError(f"no benchmark is called {name!r}; {hint} are {', '.join(BENCHMARKS)}.")
    found = cast(Benchmark, importlib.import_module(BENCHMARKS[name]).BENCHMARK)
    return found.configured(template, preset, shots)
