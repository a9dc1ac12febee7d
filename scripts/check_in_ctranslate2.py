"""Compares the greedy answers of a Hugging Face folder in CTranslate2 with those of openba-infer.

    python scripts/check_in_ctranslate2.py FOLDER ANSWERS.jsonl [TEMPLATE]

Run where ctranslate2, torch and transformers are installed. ANSWERS.jsonl is the OUTPUT_FILE of
`openba-infer` for the same model, with the same TEMPLATE and MAX_NEW_TOKENS (40).
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import ctranslate2
import transformers

NEW_TOKENS = 40


def answers_of(folder: str, prompts: list[list[str]], *, encoder: bool) -> list[list[str]]:
    """The tokens of the answers to prompts, which are tokens, too."""
    with tempfile.TemporaryDirectory() as work:
        converter = ctranslate2.converters.TransformersConverter(folder)
        converter.convert(work, quantization="float32", force=True)
        if encoder:
            translator = ctranslate2.Translator(work, compute_type="float32")
            found = translator.translate_batch(
                prompts, beam_size=1, max_decoding_length=NEW_TOKENS, max_input_length=0
            )
            return [result.hypotheses[0] for result in found]
        generator = ctranslate2.Generator(work, compute_type="float32")
        found = generator.generate_batch(
            prompts, beam_size=1, max_length=NEW_TOKENS, include_prompt_in_result=False
        )
        return [result.sequences[0] for result in found]


def main(folder: str, answers: str, template: str = "{}") -> int:
    """Prints what differs; the exit status is the number of differences."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    config = transformers.AutoConfig.from_pretrained(folder)
    records = [json.loads(line) for line in Path(answers).read_text("utf-8").splitlines()]
    texts = [template.replace("{}", record["inputs"]) for record in records]
    prompts = [tokenizer.convert_ids_to_tokens(tokenizer(text).input_ids) for text in texts]
    found = answers_of(folder, prompts, encoder=config.is_encoder_decoder)
    different = 0
    for record, tokens in zip(records, found, strict=True):
        ids = tokenizer.convert_tokens_to_ids(tokens)
        answer = tokenizer.decode(ids, skip_special_tokens=True).strip()
        if answer != record["prediction"].strip():
            different += 1
            print(f"{record['inputs']!r}\n  CTranslate2 {answer!r}")
            print(f"  openba_jax  {record['prediction']!r}")
    print(f"{len(records) - different} of {len(records)} answers are the same")
    return different


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
