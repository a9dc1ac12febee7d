"""The benchmarks by name."""

from __future__ import annotations

import difflib
import importlib
from typing import cast

from openba_jax.errors import UserError
from openba_jax.evaluation.benchmarks.base import Benchmark

BENCHMARKS = {
    "json_choice": "openba_jax.evaluation.benchmarks.json_choice",
    "bbh": "openba_jax.evaluation.generation.bbh",
    "gsm8k": "openba_jax.evaluation.generation.gsm8k",
    "translation": "openba_jax.evaluation.generation.translation",
    "summarisation": "openba_jax.evaluation.generation.summarisation",
    "ner": "openba_jax.evaluation.ner.ner",
    "ner_constrained": "openba_jax.evaluation.ner.ner_constrained",
}
"""Name of a benchmark -> the module that has its `BENCHMARK`."""


def benchmark(name: str) -> Benchmark:
    """A benchmark by name.

    Raises:
      UserError: no benchmark has that name; the message names the nearest.
    """
    if name not in BENCHMARKS:
        close = difflib.get_close_matches(name, BENCHMARKS, 1)
        hint = f"did you mean {close[0]}? Known" if close else "known"
        raise UserError(f"no benchmark is called {name!r}; {hint} are {', '.join(BENCHMARKS)}.")
    return cast(Benchmark, importlib.import_module(BENCHMARKS[name]).BENCHMARK)
