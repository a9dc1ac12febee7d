"""The benchmarks by name."""

from __future__ import annotations

import difflib
import importlib
from typing import cast

from openba_jax.errors import UserError
from openba_jax.evaluation.benchmarks.base import Benchmark

_PACKAGE = "openba_jax.evaluation.benchmarks"

BENCHMARKS = {
    name: f"{_PACKAGE}.{name}"
    for name in (
        *("json_choice", "mmlu", "cmmlu", "ceval", "arc_e", "arc_c"),
        *("piqa", "sciq", "logiqa", "boolq"),
    )
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
        settings.
    """
    name, _, template = name.partition(":")
    if name not in BENCHMARKS:
        close = difflib.get_close_matches(name, BENCHMARKS, 1)
        hint = f"did you mean {close[0]}? Known" if close else "known"
        raise UserError(f"no benchmark is called {name!r}; {hint} are {', '.join(BENCHMARKS)}.")
    found = cast(Benchmark, importlib.import_module(BENCHMARKS[name]).BENCHMARK)
    return found.configured(template, preset, shots)
