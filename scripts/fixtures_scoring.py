"""Makes tests/evaluation/data/scoring.json and scoring.model: what the original's scoring chooses.

Run with torch, safetensors and sentencepiece, from the root:
python scripts/fixtures_scoring.py PROMPT_TEMPLATES.json tests/golden/model_b tests/evaluation/data

The weights are those of a golden model, whose logits are checked first.
"""

from __future__ import annotations

import io
import json
import random
import sys
from pathlib import Path

import numpy as np
import sentencepiece
import torch
from fixtures_prompts import SETS, prompt_of
from openba_in_torch import OpenBA, Tokenizer, candidate, letter_scores, perplexity_scores
from safetensors.torch import load_file

PIECES = 270
"""The golden model has 384 ids, of which a hundred are sentinels."""

LIMITS = (160, 48)
"""So short that demonstrations are dropped, and a question is cut."""


def questions(count: int, options: int) -> list[dict]:
    """Sums, with demonstrations."""
    rng = random.Random(options)

    def one() -> dict:
        a, b = rng.randrange(2, 90), rng.randrange(2, 90)
        texts = [f"it is {a + b + rng.randrange(-9, 10) * (n > 0)} of them" for n in range(options)]
        text = f"What is {a} and {b}" + " and nothing" * rng.randrange(4)
        found = {"question": text + "?", "ans": "ABCDE"[rng.randrange(options)]}
        return found | {f"res{n}": t for n, t in enumerate(texts, 1)}

    demos = [one() for _ in range(5)]
    items = [{"demo": demos, "data": one()} for _ in range(count)]
    items[0]["data"]["question"] = "What is 1 and 1" + " and nothing" * 40 + "?"
    return items


def main(table: str, golden: str, target: str) -> None:
    """Checks the network, and writes the fixture."""
    templates = json.loads(Path(table).read_text(encoding="utf-8"))
    config = json.loads(Path(golden, "config.json").read_text())
    model = OpenBA(load_file(Path(golden, "model.safetensors")), config)
    arrays = {name: torch.from_numpy(value) for name, value in np.load(f"{golden}/io.npz").items()}
    names = ("input_ids", "attention_mask", "decoder_input_ids", "decoder_attention_mask")
    logits = model(*(arrays[name] for name in names))
    real = arrays["decoder_attention_mask"].bool()
    torch.testing.assert_close(logits[real], arrays["logits"][real], atol=1e-4, rtol=1e-4)

    data = {"mmlu": questions(24, 4), "arc_c": questions(12, 5), "piqa": questions(24, 2)}
    texts = [text for items in data.values() for each in items for text in each["data"].values()]
    texts += ["Question Options Answer Please answer the following multiple choice question"] * 20
    texts += ["(A) (B) A. B. C. D. A: B: C: D: " + text for text in texts]
    trained = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=trained,
        vocab_size=PIECES,
        hard_vocab_limit=False,
        normalization_rule_name="identity",
        required_chars="ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.,:?()-{}",
        **{"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1},
        minloglevel=2,
    )
    Path(target, "scoring.model").write_bytes(trained.getvalue())
    pieces = sentencepiece.SentencePieceProcessor(model_proto=trained.getvalue())
    assert pieces.GetPieceSize() + 103 <= config["vocab_size"], pieces.GetPieceSize()
    tokenizer = Tokenizer(pieces)
    cases = []
    for version, key, benchmark, prefix in SETS:
        if benchmark not in data:
            continue
        for name, fields in templates[version][key].items():
            if not isinstance(fields, dict) or name.startswith("r_ppl"):
                continue
            rows, decoder = [], ""
            for each in data[benchmark]:
                most = len(each["demo"]) if not name.endswith("_0") else 0
                table = templates[version][key]
                prompts = [
                    prompt_of(table, name, each["demo"][:k], each["data"], {})
                    for k in range(most + 1)
                ]
                decoder = prompts[0][1]
                rows.append(candidate(tokenizer, [text for text, _ in prompts], LIMITS[0]))
            count = len([field for field in data[benchmark][0]["data"] if field.startswith("res")])
            options = [
                [each["data"][f"res{n}"] for n in range(1, count + 1)] for each in data[benchmark]
            ]
            if name.startswith("ppl"):
                sentinel = tokenizer.special["<extra_id_0>"]
                scores = perplexity_scores(model, tokenizer, rows, options, LIMITS, sentinel)
                chosen, hard = scores.argmin(-1), 250199
                fixed = perplexity_scores(model, tokenizer, rows, options, LIMITS, hard)
                with_quirk = fixed.argmin(-1).tolist()
            else:
                scores = letter_scores(model, tokenizer, rows, decoder, "ABCDE"[:count], LIMITS)
                chosen, with_quirk = scores.argmax(-1), None
            cases.append(
                {
                    "benchmark": benchmark,
                    "template": prefix + name,
                    "scores": [[round(s, 5) for s in row] for row in scores.tolist()],
                    "chosen": chosen.tolist(),
                    "chosen_with_250199": with_quirk,
                }
            )
    fixture = {"limits": LIMITS, "questions": data, "cases": cases}
    Path(target, "scoring.json").write_text(json.dumps(fixture) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
