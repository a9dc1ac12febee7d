r"""Starts t5x.train through XManager (github.com/google-deepmind/xmanager) on Vertex AI.

xmanager launch scripts/launch/xmanager_t5x.py -- \
  --tpu=v3-8 --gin_file=gin/models/stage4_3_8b.gin --gin_file=gin/runs/t5x/pretrain.gin \
  --gin_bindings="MODEL_DIR='/gcs/BUCKET/run'"

Bindings take the form that gin has in files. XManager is installed apart: pip install xmanager.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from absl import app, flags
from xmanager import xm, xm_local

_TPU = flags.DEFINE_string("tpu", "v3-8", "Kind and number of TPU cores.")
_NAME = flags.DEFINE_string("name", "openba_t5x", "Name of the experiment.")
_GIN_FILE = flags.DEFINE_multi_string("gin_file", [], "Gin files, from the repository's root.")
_GIN_BINDINGS = flags.DEFINE_multi_string("gin_bindings", [], "Bindings, as in gin files.")

_REPOSITORY = Path(__file__).resolve().parent.parent.parent


def main(argv: Sequence[str]) -> None:
    """Packages the repository with T5X and starts one job."""
    del argv
    kind, cores = _TPU.value.split("-")
    with xm_local.create_experiment(experiment_title=_NAME.value) as experiment:
        executor = xm_local.Vertex(xm.JobRequirements(**{f"tpu_{kind}": int(cores)}))
        spec = xm.PythonContainer(
            path=str(_REPOSITORY),
            base_image="python:3.11",
            docker_instructions=[
                f"COPY {_REPOSITORY.name}/ /openba_jax",
                "WORKDIR /openba_jax",
                "RUN pip install -c constraints.txt -e '.[tpu]'",
                "RUN pip install --no-deps -r requirements/t5x.txt",
            ],
            entrypoint=xm.CommandList(["python -m t5x.train --gin_search_paths=. $@"]),
        )
        (executable,) = experiment.package([xm.Packageable(spec, executor.Spec())])
        arguments = [f"--gin_file={file}" for file in _GIN_FILE.value]
        arguments += [f"--gin_bindings={binding}" for binding in _GIN_BINDINGS.value]
        experiment.add(xm.Job(executable, executor, args=arguments))


if __name__ == "__main__":
    app.run(main)
