"""Compares what two models of lm-evaluation-harness said to the same requests.

openba-lm-eval run --model openba_jax --model_args path=runs/model --tasks arc_easy \
  --log_samples --output_path ours
lm_eval run --model hf --model_args pretrained=exported,dtype=float32 --tasks arc_easy \
  --log_samples --output_path theirs
python scripts/compare_harness_samples.py --ours=ours --theirs=theirs
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from absl import app, flags

OURS = flags.DEFINE_string("ours", None, "An --output_path.", required=True)
THEIRS = flags.DEFINE_string("theirs", None, "The other one.", required=True)


def samples(folder: str) -> dict[str, dict[int, Any]]:
    """Answers by task and document; of several runs the last."""
    found: dict[str, dict[int, Any]] = {}
    for file in sorted(Path(folder).rglob("samples_*.jsonl"), key=lambda path: path.name):
        task = file.name.removeprefix("samples_").rpartition("_")[0]
        records = map(json.loads, file.read_text(encoding="utf-8").splitlines())
        found[task] = {record["doc_id"]: record["resps"] for record in records}
    return found


def leaves(answer: Any) -> list[str]:
    if isinstance(answer, list):
        return [leaf for each in answer for leaf in leaves(each)]
    return [str(answer)]


def is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def main(argv: list[str]) -> None:
    del argv
    ours, theirs = samples(OURS.value), samples(THEIRS.value)
    if ours.keys() != theirs.keys() or not ours:
        sys.exit(f"the tasks differ: {sorted(ours)} and {sorted(theirs)}.")
    for task, answers in ours.items():
        pairs = list(
            zip(leaves(list(answers.values())), leaves(list(theirs[task].values())), strict=True)
        )
        numbers = [(float(a), float(b)) for a, b in pairs if is_number(a) and is_number(b)]
        texts = [(a, b) for a, b in pairs if not (is_number(a) and is_number(b))]
        furthest = max((abs(a - b) / max(abs(b), 1e-9) for a, b in numbers), default=0.0)
        same = sum(a == b for a, b in texts)
        print(
            f"{task}: {len(numbers)} numbers, furthest {furthest:.1e} of its value; "
            f"{same} of {len(texts)} others the same"
        )


if __name__ == "__main__":
    app.run(main)
