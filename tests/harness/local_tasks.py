"""Tasks of the harness on local files."""

from __future__ import annotations

import json
from pathlib import Path

CHOICES = [
    {"question": "what is water", "options": ["H2O", "a metal", "NaCl"], "gold": 0},
    {"question": "who", "options": ["you and me", "they", "gold"], "gold": 1},
    {"question": "what is gold", "options": ["a liquid", "a metal", "water"], "gold": 1},
]
TEXTS = [{"text": "what is water and gold " * 12}, {"text": "who you and me"}, {"text": "H2O ?"}]

TASKS = {
    "local_choices": """
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{options}}"
doc_to_target: "{{gold}}"
metric_list:
  - metric: acc
""",
    "local_rolling": """
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list:
  - metric: bits_per_byte
""",
}


def write_task(folder: Path, name: str, fields: str, rows: list[dict]) -> None:
    """A task of the harness on a file of its own."""
    data = folder / f"{name}.json"
    data.write_text("\n".join(json.dumps(row) for row in rows))
    (folder / f"{name}.yaml").write_text(
        f"task: {name}\ndataset_path: json\ntest_split: test\n"
        f"dataset_kwargs:\n  data_files:\n    test: {data}\n{fields}"
    )
