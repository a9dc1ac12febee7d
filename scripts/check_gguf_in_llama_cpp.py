"""Compares the greedy answers of a GGUF file in llama.cpp with those of openba-infer.

    python scripts/check_gguf_in_llama_cpp.py MODEL.gguf ANSWERS.jsonl [TEMPLATE]

Run where llama-cpp-python is installed. ANSWERS.jsonl is the OUTPUT_FILE of `openba-infer` for the
same model, with the same TEMPLATE and MAX_NEW_TOKENS (40).
"""

from __future__ import annotations

import ctypes
import json
import sys
from pathlib import Path

import llama_cpp
import numpy as np

NEW_TOKENS = 40


def answer_of(llm: llama_cpp.Llama, prompt: list[int]) -> list[int]:
    """The answer to a prompt, tokens both, without the one that ends it."""
    model, context = llm.model, llm.ctx
    vocab = llama_cpp.llama_model_get_vocab(model)
    rows = llama_cpp.llama_vocab_n_tokens(vocab)

    def read(function: object, tokens: list[int]) -> None:
        array = (llama_cpp.llama_token * len(tokens))(*tokens)
        if status := function(context, llama_cpp.llama_batch_get_one(array, len(tokens))):
            raise RuntimeError(f"llama.cpp cannot read {tokens}: status {status}")

    llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
    if llama_cpp.llama_model_has_encoder(model):
        read(llama_cpp.llama_encode, prompt)
        prompt = [llama_cpp.llama_model_decoder_start_token(model)]
    found: list[int] = []
    read(llama_cpp.llama_decode, prompt)
    while len(found) < NEW_TOKENS:
        logits = llama_cpp.llama_get_logits_ith(context, -1)
        logits = ctypes.cast(logits, ctypes.POINTER(ctypes.c_float * rows)).contents
        token = int(np.argmax(np.frombuffer(logits, np.float32)))
        if llama_cpp.llama_vocab_is_eog(vocab, token):
            break
        found.append(token)
        read(llama_cpp.llama_decode, [token])
    return found


def main(model: str, answers: str, template: str = "{}") -> int:
    """Prints what differs; the exit status is the number of differences."""
    # Keys and values are kept in float32, as openba-infer keeps them.
    llm = llama_cpp.Llama(
        model,
        n_ctx=1024,
        n_threads=2,
        type_k=llama_cpp.GGML_TYPE_F32,
        type_v=llama_cpp.GGML_TYPE_F32,
        verbose=False,
    )
    encoder = llama_cpp.llama_model_has_encoder(llm.model)
    records = [json.loads(line) for line in Path(answers).read_text("utf-8").splitlines()]
    different = 0
    for record in records:
        text = template.replace("{}", record["inputs"]).encode()
        prompt = llm.tokenize(text, add_bos=True, special=not encoder)
        answer = llm.detokenize(answer_of(llm, prompt)).decode("utf-8", "replace").strip()
        if answer != record["prediction"].strip():
            different += 1
            print(f"{record['inputs']!r}\n  llama.cpp   {answer!r}")
            print(f"  openba_jax  {record['prediction']!r}")
    print(f"{len(records) - different} of {len(records)} answers are the same")
    return different


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
