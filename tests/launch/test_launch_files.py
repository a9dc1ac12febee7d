"""Launch files: sound, made of files and macros that exist, and starting what they say."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import gin
from openba_jax.cli import arguments as arguments_of_cli
from openba_jax.cli import gin_files

REPOSITORY = Path(__file__).resolve().parents[2]
LAUNCH = REPOSITORY / "scripts" / "launch"
RUNS = ("15b", "3.8b", "llama_7b")


def stand_in(folder: Path, name: str, code: int = 0) -> Path:
    """A program that notes its arguments down, a line of JSON for each call."""
    path = folder / name
    path.write_text(
        f"#!{sys.executable}\nimport json, sys\n"
        f"with open({str(folder / (name + '.jsonl'))!r}, 'a') as file:\n"
        f"    file.write(json.dumps(sys.argv[1:]) + '\\n')\n"
        f"sys.exit({code})\n"
    )
    path.chmod(0o755)
    return path


def calls(folder: Path, name: str) -> list[list[str]]:
    path = folder / f"{name}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def launch(folder: Path, script: str, *arguments: str, **environment: str) -> Any:
    return subprocess.run(
        ["bash", str(LAUNCH / script), *arguments],
        env={
            **os.environ,
            "PATH": f"{folder}:{os.environ['PATH']}",
            "DATA": "/mnt/my data",
            "RUNS": "/mnt/runs",
            **environment,
        },
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def clean_gin() -> Iterator[None]:
    gin.clear_config()
    gin.add_config_file_search_path(str(REPOSITORY))
    yield
    gin.clear_config()


@pytest.mark.parametrize("script", sorted(LAUNCH.rglob("*.sh")), ids=lambda path: path.name)
def test_scripts_are_sound(script: Path) -> None:
    subprocess.run(["bash", "-n", str(script)], check=True)
    if script.parent == LAUNCH:
        assert all(re.search(rf"\b{re.escape(run)}\b", script.read_text()) for run in RUNS)


@pytest.mark.parametrize("run", RUNS)
def test_the_lines_of_a_run_are_known_to_gin(run: str, tmp_path: Path, clean_gin: None) -> None:
    from openba_jax.training import gin_bindings  # noqa: F401 - registers the names

    python = stand_in(tmp_path, "python")
    done = launch(tmp_path, "train.sh", run, "--gin.ACCUMULATION=2", PYTHON=str(python))
    assert done.returncode == 0, done.stderr
    ((module, main, *arguments),) = calls(tmp_path, "python")
    assert (module, main) == ("-m", "openba_jax.train")
    rewritten = arguments_of_cli.rewrite_gin_arguments(arguments)
    files = [a.removeprefix("--gin_file=") for a in rewritten if a.startswith("--gin_file=")]
    bindings = [a.removeprefix("--gin_bindings=") for a in rewritten if "--gin_bindings=" in a]
    assert len(files) + len(bindings) == len(arguments)
    gin.parse_config_files_and_bindings(files, bindings)
    macros = {m.name: m for m in gin_files.macros(files, [], [str(REPOSITORY)])}
    named = {b.partition(" = ")[0] for b in bindings}
    assert {name for name in named if "." not in name} <= macros.keys()
    left = [name for name, macro in macros.items() if macro.value == "%gin.REQUIRED"]
    assert set(left) <= named
    assert gin.query_parameter("ACCUMULATION/macro.value") == 2
    assert gin.query_parameter("MODEL_DIR/macro.value") == f"/mnt/runs/{run}"
    batch = gin.query_parameter("BATCH_SIZE/macro.value")
    last = next(b for b in bindings if b.startswith("ACCUMULATION"))
    assert batch % (64 * int(last.partition(" = ")[2])) == 0  # On the largest mesh.


@pytest.mark.parametrize("script", ["train.sh", "slurm.sh", "ssh.sh", "tpu_vm.sh"])
def test_what_is_missing_is_named(script: str, tmp_path: Path) -> None:
    done = launch(tmp_path, script)
    assert done.returncode != 0
    assert "name a run: 15b, 3.8b or llama_7b" in done.stderr
    if script == "train.sh":
        done = launch(tmp_path, script, "7b")
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert "there is no run 7b" in done.stderr


@pytest.mark.parametrize(("code", "requeued"), [(143, True), (0, False), (2, False)])
def test_slurm_queues_a_stopped_run_again(code: int, requeued: bool, tmp_path: Path) -> None:
    stand_in(tmp_path, "srun", code)
    stand_in(tmp_path, "scontrol")
    done = launch(tmp_path, "slurm.sh", "15b", "--x=1", SLURM_NNODES="4", SLURM_JOB_ID="7")
    assert done.returncode == code
    assert calls(tmp_path, "srun") == [
        ["bash", "scripts/launch/train.sh", "15b", "--x=1", "--multiprocess"]
    ]
    assert calls(tmp_path, "scontrol") == ([["requeue", "7"]] if requeued else [])


def test_ssh_starts_a_process_on_every_host(tmp_path: Path) -> None:
    stand_in(tmp_path, "ssh")
    done = launch(tmp_path, "ssh.sh", "3.8b", "--gin.PACK=True", HOSTS="one two")
    assert done.returncode == 0, done.stderr
    started = {host: shlex.split(command) for host, command in calls(tmp_path, "ssh")}
    assert started.keys() == {"one", "two"}
    for index, host in enumerate(("one", "two")):
        words = started[host]
        assert words[:5] == ["cd", "openba_jax", "&&", "env", "DATA=/mnt/my data"]
        assert words[-6:] == [
            *("scripts/launch/train.sh", "3.8b", "--gin.PACK=True"),
            *("--coordinator_address=one:8476", "--process_count=2", f"--process_index={index}"),
        ]
    assert launch(tmp_path, "ssh.sh", "3.8b", HOSTS="one").returncode == 0
    assert calls(tmp_path, "ssh")[-1][1].endswith("train.sh 3.8b ")
    stand_in(tmp_path, "ssh", 3)
    assert launch(tmp_path, "ssh.sh", "3.8b", HOSTS="one two").returncode == 3


def test_tpu_vm_installs_and_starts(tmp_path: Path) -> None:
    stand_in(tmp_path, "gcloud")
    where = {"NAME": "pod", "ZONE": "here", "REPOSITORY": "https://example.com/openba"}
    done = launch(tmp_path, "tpu_vm.sh", "llama_7b", "--gin.PACK=True", **where)
    assert done.returncode == 0, done.stderr
    installs, starts = calls(tmp_path, "gcloud")
    assert "https://example.com/openba" in installs[-1]
    for name in re.findall(r"requirements/\S+", installs[-1]):
        assert (REPOSITORY / name).is_file()
    words = shlex.split(starts[-1].removeprefix("--command="))
    assert "DATA=/mnt/my data" in words
    assert words[-3:] == ["llama_7b", "--gin.PACK=True", "--multiprocess"]


@pytest.mark.parametrize("path", [LAUNCH / "gke_job.yaml", LAUNCH / "t5x" / "gke_job.yaml"])
def test_jobs_of_gke_are_whole(path: Path) -> None:
    service, job = yaml.safe_load_all(path.read_text())
    assert service["kind"] == "Service"
    pod = job["spec"]["template"]["spec"]
    assert job["spec"]["completions"] == job["spec"]["parallelism"]
    assert pod["subdomain"] == service["metadata"]["name"]
    chips = [int(n) for n in pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x")]
    size = 1
    for each in chips:
        size *= each
    (container,) = pod["containers"]
    assert size == job["spec"]["completions"] * container["resources"]["limits"]["google.com/tpu"]
    for word in container["command"]:
        for name in re.findall(r"(?:gin|scripts)/[\w./]+", word):
            assert (REPOSITORY / name).is_file(), name
