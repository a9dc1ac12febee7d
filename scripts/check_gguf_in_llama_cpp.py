"""Compares the greedy answers of a GGUF file in llama.cpp with those of openba-infer.

    python scripts/check_gguf_in_llama_cpp.py MODEL.gguf ANSWERS.jsonl [TEMPLATE]

Run where llama-cpp-python is installed. ANSWERS.jsonl is the OUTPUT_FILE of `openba-infer` for the
same model, with the same TEMPLATE and MAX_NEW_TOKENS (40).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import llama_cpp

NEW_TOKENS = 40


def main(model: str, answers: str, template: str = "{}") -> int:
    """Prints what differs; the exit status is the number of differences."""
    llm = llama_cpp.Llama(model, n_ctx=1024, verbose=False, logits_all=False, n_threads=2)
    records = [json.loads(line) for line in Path(answers).read_text("utf-8").splitlines()]
    different = 0
    for record in records:
        text = template.replace("{}", record["inputs"])
        prompt = llm.tokenize(text.encode(), add_bos=True, special=True)
        found: list[int] = []
        llm.reset()
        for token in llm.generate(prompt, temp=0.0, top_k=1):
            if token == llm.token_eos() or len(found) == NEW_TOKENS:
                break
            found.append(token)
        answer = llm.detokenize(found).decode("utf-8", "replace").strip()
        if answer != record["prediction"]:
            different += 1
            print(f"{record['inputs']!r}\n  llama.cpp   {answer!r}")
            print(f"  openba_jax  {record['prediction']!r}")
    print(f"{len(records) - different} of {len(records)} answers are the same")
    return different


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
