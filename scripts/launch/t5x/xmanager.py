r"""Starts t5x.train through XManager (github.com/google-deepmind/xmanager) on Vertex AI.

xmanager launch scripts/launch/t5x/xmanager.py -- \
  --tpu=v3-8 --gin_file=gin/models/stage4_3_8b.gin --gin_file=gin/runs/t5x/pretrain.gin \
  --gin_bindings="MODEL_DIR='/gcs/BUCKET/run'"

Bindings take the form that gin has in files. What is committed is what runs. XManager is installed
apart (pip install xmanager); of TPUs, its Vertex AI knows v2 and v3.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from absl import app, flags
from xmanager import xm, xm_local

_TPU = flags.DEFINE_string("tpu", "v3-8", "Kind and number of TPU cores.")
_NAME = flags.DEFINE_string("name", "openba_t5x", "Name of the experiment.")
_GIN_FILE = flags.DEFINE_multi_string("gin_file", [], "Gin files, from the repository's root.")
_GIN_BINDINGS = flags.DEFINE_multi_string("gin_bindings", [], "Bindings, as in gin files.")

_REPOSITORY = Path(__file__).resolve().parents[3]
_PROJECT = "openba_jax"


def main(argv: Sequence[str]) -> None:
    """Packages the repository with T5X and starts one job."""
    del argv
    kind, cores = _TPU.value.split("-")
    requirements = xm.JobRequirements(**{f"tpu_{kind}": int(cores)})
    with (
        tempfile.TemporaryDirectory() as staging,
        xm_local.create_experiment(experiment_title=_NAME.value) as experiment,
    ):
        # Without environments, runs and data, which lie beside.
        project = Path(staging) / _PROJECT
        subprocess.run(["git", "clone", "-q", str(_REPOSITORY), str(project)], check=True)
        executor = xm_local.Vertex(requirements=requirements)
        spec = xm.PythonContainer(
            path=str(project),
            base_image="python:3.11",
            docker_instructions=[
                # XManager's entry point waits with it until the TPUs answer.
                "RUN apt-get update && apt-get install -y netcat-openbsd",
                f"COPY {_PROJECT}/ /{_PROJECT}",
                f"WORKDIR /{_PROJECT}",
                "RUN pip install -c constraints.txt -e '.[tpu]'",
                "RUN pip install --no-deps -r requirements/t5x.txt",
            ],
            # XManager appends "$@".
            entrypoint=xm.CommandList(["python -m t5x.train --gin_search_paths=."]),
        )
        (executable,) = experiment.package([xm.Packageable(spec, executor.Spec())])
        # A host has 8 cores.
        arguments = ["--multiprocess_gpu"] if int(cores) > 8 else []
        arguments += [f"--gin_file={file}" for file in _GIN_FILE.value]
        arguments += [f"--gin_bindings={binding}" for binding in _GIN_BINDINGS.value]
        # No shell reads them; XManager would escape their quotes for one.
        safe = [xm.ShellSafeArg(argument) for argument in arguments]
        experiment.add(xm.Job(executable, executor, args=safe))


if __name__ == "__main__":
    app.run(main)
