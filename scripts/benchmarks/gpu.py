"""All that a GPU can say of this package, in one command of ten minutes.

python scripts/benchmarks/gpu.py --output=runs/gpu

It needs jax, flax, optax, orbax-checkpoint and numpy, and no installation of this package. Measured
are training of the 3.8B shape, or of the largest that fits, each lever by itself, decoding, and the
kernels of attention. Each measurement is a process of its own: one that fails or hangs is a line of
the report. The most telling come first; what the time does not suffice for is named, and the same
command goes on with it. `--size=tiny` tries the command on a CPU, with figures that mean nothing.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import multiprocessing
import os
import signal
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

STARTED = time.monotonic()
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

# No backend of JAX is made in this process: children that are forked from it have everything
# imported, take the GPU one after the other, and each reads its own XLA_FLAGS.
import gpu_measure  # noqa: E402
import gpu_plan  # noqa: E402
import gpu_report  # noqa: E402

from openba_jax.errors import UserError  # noqa: E402
from openba_jax.files import write_atomically, write_json  # noqa: E402

MEMORY_SHARE = "0.92"
"""Of the card's memory, for XLA_PYTHON_CLIENT_MEM_FRACTION, where the caller says nothing."""

LONGEST = 180.0
"""Seconds after which a measurement is stopped."""

EXPECTED = 40.0
"""Seconds that a measurement is expected to take before another one of its group was made."""

RESERVE = 5.0
"""Seconds of the budget that are left for the end."""


class Results:
    """`results.json` and `results.md` of a folder, written after each measurement."""

    def __init__(self, folder: Path, again: Sequence[str] | None) -> None:
        """Reads what earlier commands left.

        Raises:
          UserError: it is not readable.
        """
        self.folder = folder
        self.found: dict[str, dict[str, Any]] = {}
        self.not_run: dict[str, str] = {}
        file = folder / "results.json"
        if file.exists():
            try:
                self.found = json.loads(file.read_text(encoding="utf-8"))["results"]
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(f"{file} is no file of results; name another --output.") from error
        if again is not None:
            patterns = again or ["*"]
            self.found = {
                name: result for name, result in self.found.items() if not _matches(name, patterns)
            }

    @property
    def card(self) -> dict[str, Any] | None:
        """What is known of the card."""
        return self.found.get(gpu_plan.CARD, {}).get("figures")

    def expected(self, group: str) -> float:
        """Seconds that a measurement will take."""
        taken = [each["took"] for each in self.found.values() if each["group"] == group]
        return statistics.mean(taken) if taken else EXPECTED

    def write(self) -> None:
        """Writes both files, each whole."""
        value = {"results": self.found, "not_run": self.not_run}
        write_json(self.folder / "results.json", value)
        write_atomically(self.folder / "results.md", gpu_report.report(self.found, self.not_run))


def measure(measurement: gpu_plan.Measurement, seconds: float, folder: Path) -> dict[str, Any]:
    """Makes a measurement in a process of its own, which ends after so many seconds."""
    answer, log = folder / "answer.json", folder / "last.log"
    answer.unlink(missing_ok=True)
    began = time.monotonic()
    context = multiprocessing.get_context("fork")
    process = context.Process(target=_child, args=(measurement, answer, log))
    process.start()
    try:
        process.join(seconds)
    finally:
        in_time = not process.is_alive()
        process.kill()
        process.join()
    result = {
        "group": measurement.group,
        "label": measurement.label,
        "options": measurement.options,
        "flags": measurement.flags,
        "took": time.monotonic() - began,
    }
    if answer.exists():
        result |= json.loads(answer.read_text(encoding="utf-8"))
        answer.unlink()
    elif in_time:
        result["failed"] = _end_of(process.exitcode, log)
    else:
        result["failed"] = f"stopped after {seconds:.0f} s"
        result["stopped"] = True
    return result


def _child(measurement: gpu_plan.Measurement, answer: Path, log: Path) -> None:
    """Runs in the process of the measurement; libraries write to a log."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {measurement.flags}".strip()
    result: dict[str, Any]
    try:
        result = {"figures": gpu_measure.KINDS[measurement.group](**measurement.options)}
    except Exception as error:  # Whatever it is, the other measurements go on.
        result = {"failed": gpu_measure.reason(error)}
    write_json(answer, result)


def _end_of(code: int | None, log: Path) -> str:
    """Why a process ended without an answer."""
    how = f"exit code {code}"
    if code is not None and code < 0:
        how = signal.Signals(-code).name
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
    telling = [line for line in lines if "Unknown flag" in line or line.startswith("F")]
    return f"ended by {how}: {(telling or lines or ['without a word'])[-1].strip()[:300]}"


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def run(options: argparse.Namespace) -> int:
    """Measures what is missing; 0, or 1 if something is still missing.

    Raises:
      UserError: there is no GPU, or the folder has the figures of another card.
    """
    deadline = STARTED + 60 * options.minutes - RESERVE
    results = Results(options.output, options.again)
    options.output.mkdir(parents=True, exist_ok=True)
    card = _card(options, results, deadline)
    planned = gpu_plan.measurements(card)
    missing = [
        each
        for each in planned
        if each.name not in results.found and _matches(each.name, options.only)
    ]
    results.not_run = {each.name: "it was not its turn yet" for each in missing}
    results.write()
    print(f"{card['device']}: {len(missing)} of {len(planned)} measurements to make", flush=True)
    for number, each in enumerate(missing, start=1):
        left = deadline - time.monotonic()
        if (wanted := results.expected(each.group)) > left:
            results.not_run[each.name] = (
                f"{max(0, left):.0f} s were left, and it takes about {wanted:.0f} s"
            )
            continue
        limit = min(LONGEST, left)
        result = measure(each, limit, options.output)
        if result.get("stopped") and limit < LONGEST:
            results.not_run[each.name] = f"the time ended while it ran, after {limit:.0f} s"
        else:
            results.found[each.name] = result
            del results.not_run[each.name]
        said = result.get("failed", "measured")
        print(f"{number}/{len(missing)} {each.name}: {said} ({result['took']:.0f} s)", flush=True)
        results.write()
    results.write()
    (options.output / "last.log").unlink(missing_ok=True)
    print(f"{options.output / 'results.md'}; not run: {', '.join(results.not_run) or 'nothing'}")
    return 1 if results.not_run else 0


def _card(options: argparse.Namespace, results: Results, deadline: float) -> dict[str, Any]:
    """What the card is; measured if it is not known yet."""
    tiny = options.size == "tiny"
    wanted = gpu_plan.of_card(tiny) if results.card is None else gpu_plan.IDENTITY
    left = max(EXPECTED, deadline - time.monotonic())  # Without it there is nothing to say.
    here = measure(wanted, min(LONGEST, left), options.output)
    if "failed" in here:
        raise UserError(f"the card cannot be measured: {here['failed']}")
    if here["figures"]["platform"] != "gpu" and not tiny:
        raise UserError("there is no GPU here; --size=tiny tries the command all the same.")
    if results.card is None:
        results.found[gpu_plan.CARD] = here
    card = results.card
    assert card is not None
    if here["figures"]["device"] != card["device"] or tiny != card["tiny"]:
        raise UserError(
            f"{options.output} has the figures of a {card['device']}"
            f"{', of the tiny size' if card['tiny'] else ''}, and here is a "
            f"{here['figures']['device']}; name another --output, or --again."
        )
    return card


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, required=True, help="folder of the results")
    parser.add_argument("--minutes", type=float, default=10.0, help="for all of it")
    parser.add_argument(
        "--size", choices=("auto", "tiny"), default="auto", help="auto: the largest that fits"
    )
    parser.add_argument(
        "--only", nargs="+", default=["*"], help="names to measure, such as 'decoding/*'"
    )
    parser.add_argument(
        "--again", nargs="*", metavar="NAME", help="measure these, or all, though they are there"
    )
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", MEMORY_SHARE)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    options = parser.parse_args()
    if options.size == "tiny":  # To compile well would take minutes.
        flags = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"--xla_backend_optimization_level=0 {flags}".strip()
    try:
        return run(options)
    except UserError as error:
        print(f"gpu.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
