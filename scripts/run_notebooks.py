"""Runs notebooks of `scripts/colab` from top to bottom and stores what they show.

    python scripts/run_notebooks.py [NOTEBOOKS...]

Without names all are run, which takes some 20 minutes on two CPU cores. A translation has the code
of its original and gets its outputs.
"""

import re
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "scripts" / "colab"
SECONDS = 4 * 3600
PROGRESS = re.compile(r"(: step \d+/\d+, | so far$|^The history saving thread|IPKernelApp)")
"""Lines that tell how fast a machine was, and of it alone."""


def run(path):
    """Runs a notebook and writes it with its outputs, and its translation with the same."""
    notebook = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(ROOT)}}
    NotebookClient(notebook, timeout=SECONDS, resources=resources).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = stored(cell.outputs)
    nbformat.write(notebook, path)
    translation = path.with_suffix(".zh.ipynb")
    if translation.exists():
        other = nbformat.read(translation, as_version=4)
        for cell, theirs in zip(notebook.cells, other.cells, strict=True):
            if cell.cell_type == "code":
                theirs.update(outputs=cell.outputs, execution_count=cell.execution_count)
        nbformat.write(other, translation)


def stored(outputs):
    """Outputs as they are kept: one stream after another joined, without progress or this path."""
    kept = []
    for output in outputs:
        if output.output_type == "stream":
            lines = output.text.replace(f"{ROOT}/", "").splitlines(keepends=True)
            output.text = "".join(line for line in lines if not PROGRESS.search(line.rstrip()))
            if not output.text.strip():
                continue
            if kept and kept[-1].output_type == "stream" and kept[-1].name == output.name:
                kept[-1].text += output.text
                continue
        kept.append(output)
    return kept


def main():
    """Runs the notebooks that are named, in order."""
    names = [Path(name).name for name in sys.argv[1:]]
    names = names or sorted(p.name for p in FOLDER.glob("*.ipynb") if ".zh" not in p.name)
    for name in names:
        print(name, flush=True)
        run(FOLDER / name)


if __name__ == "__main__":
    main()
