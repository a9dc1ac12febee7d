"""The command that measures a GPU: it tries itself on a CPU, and survives what fails."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from openba_jax.models.counting import train_flops_per_example
from openba_jax.models.registry import model_of, named_config

REPOSITORY = Path(__file__).resolve().parents[2]
BENCHMARKS = REPOSITORY / "scripts" / "benchmarks"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [sys.executable, *arguments],
        env=environment | {"JAX_PLATFORMS": "cpu"},
        cwd=BENCHMARKS,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )


def tiny(folder: Path, *arguments: str) -> tuple[int, dict[str, Any], str]:
    """Exit code, results and report of the tiny size."""
    done = run("gpu.py", "--size=tiny", f"--output={folder}", *arguments)
    assert done.returncode in (0, 1), done.stderr
    results = json.loads((folder / "results.json").read_text())
    return done.returncode, results, (folder / "results.md").read_text()


@pytest.mark.slow("compiles a dozen steps")
def test_a_cpu_tries_the_whole_command(tmp_path: Path) -> None:
    code, first, report = tiny(tmp_path, "--minutes=10", "--only", "decoding/1/bfloat16", "att*")
    assert code == 0
    decoded = first["results"]["decoding/1/bfloat16"]["figures"]
    assert decoded["bytes"] > 2 * 64 * 512  # The vocabulary alone.
    assert decoded["seconds_token"] > 0
    assert decoded["share"] is None  # No limit of a CPU is known.
    assert "does not run on a cpu" in first["results"]["attention/cudnn"]["failed"]
    assert "| xla | 64 |" in report

    patterns = (
        *("training/minimal", "levers/defaults", "levers/adafactor", "levers/*triton*"),
        *("decoding/1/both*", "decoding/1/bfloat16", "attention/*"),
    )
    code, second, report = tiny(tmp_path, "--minutes=10", "--only", *patterns)
    assert code == 0
    assert second["results"]["decoding/1/bfloat16"] == first["results"]["decoding/1/bfloat16"]
    step = second["results"]["training/minimal"]["figures"]
    of_row = train_flops_per_example(model_of(named_config("tiny")), 64, 48)
    assert step["flops_per_second"] == pytest.approx(step["tokens_per_second"] / 112 * of_row)
    peak = second["results"]["card"]["figures"]["peak"]  # Measured, on a machine with other work.
    assert 0 < step["flops_per_second"] < 1.5 * peak
    assert f"{step['flops_per_second'] / peak:.1%}" in report
    whole, rounded = (
        second["results"][f"decoding/1/{name}"]["figures"]["bytes"]
        for name in ("bfloat16", "both in int8")
    )
    assert rounded < 0.8 * whole
    assert "`adafactor` | " in report
    assert "--xla_gpu_enable_triton_gemm=false` | " in report

    code, third, report = tiny(tmp_path, "--minutes=0", "--only", "levers/*", "training/*")
    assert code == 1
    assert set(second["results"]) == set(third["results"])
    assert "training/full" in third["not_run"]
    assert "- `training/full`: 0 s were left" in report


def test_what_fails_is_a_line_and_not_the_end(tmp_path: Path) -> None:
    program = f"""
        import os, sys, time
        from pathlib import Path
        import gpu, gpu_measure, gpu_plan, gpu_report

        def full(): raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 7 bytes.")
        def broken(): raise ValueError("no kernel\\nfor this")
        def hangs(): time.sleep(60)
        def dies(): os.abort()
        def starts():
            import jax
            return {{"devices": len(jax.devices())}}

        kinds = dict(full=full, broken=broken, hangs=hangs, dies=dies, starts=starts, flag=starts)
        gpu_measure.KINDS.update(kinds)
        for kind in kinds:
            flags = "--xla_no_such_flag=1" if kind == "flag" else ""
            made = gpu_plan.Measurement(kind, kind, kind, {{}}, flags)
            seconds = 1 if kind == "hangs" else 50
            result = gpu.measure(made, seconds, Path({str(tmp_path)!r}))
            print(kind, result.get("figures"), result.get("failed"), sep="|")
    """
    done = run("-c", textwrap.dedent(program))
    assert not done.returncode, done.stderr
    said = {line.split("|")[0]: line.split("|")[1:] for line in done.stdout.splitlines()}
    assert said["starts"] == ["{'devices': 1}", "None"]
    assert said["full"] == ["None", "out of memory: Out of memory allocating 7 bytes."]
    assert said["broken"] == ["None", "ValueError: no kernel"]
    assert said["hangs"] == ["None", "stopped after 1 s"]
    assert said["dies"][1].startswith("ended by SIGABRT")
    assert "Unknown flag in XLA_FLAGS: --xla_no_such_flag=1" in said["flag"][1]


def test_results_of_another_card_are_not_mixed(tmp_path: Path) -> None:
    card = {"device": "NVIDIA H100", "tiny": True, "platform": "gpu"}
    results = {"results": {"card": {"group": "card", "took": 9.0, "figures": card}}}
    (tmp_path / "results.json").write_text(json.dumps(results))
    done = run("gpu.py", "--size=tiny", f"--output={tmp_path}")
    assert done.returncode == 2
    assert "has the figures of a NVIDIA H100" in done.stderr
    assert json.loads((tmp_path / "results.json").read_text()) == results


def test_without_a_gpu_the_command_says_so(tmp_path: Path) -> None:
    card = {"device": "cpu", "tiny": False}
    results = {"results": {"card": {"group": "card", "took": 9.0, "figures": card}}}
    (tmp_path / "results.json").write_text(json.dumps(results))
    done = run("gpu.py", f"--output={tmp_path}")
    assert done.returncode == 2
    assert done.stderr.strip() == (
        "gpu.py: there is no GPU here; --size=tiny tries the command all the same."
    )
