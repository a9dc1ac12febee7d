"""Questions a second: options that share the encoder, one by one, and the original's in PyTorch.

    python scripts/benchmarks/scoring.py QUESTIONS.json --torch_python=PYTHON --output=scoring.json

QUESTIONS.json is a file of MMLU in OpenBA's format. One model with random weights is written to a
temporary folder and asked `mmlu:ppl_5` in three ways, on the same CPU and with as many threads:

shared    this package: the encoder runs once for each question, batches are sorted by length
separate  this package: every option is a question of its own, as scorers without sharing do
torch     `scripts/openba_in_torch.py`: the original's scoring, which pads to the longest of a batch
          and runs the whole model for each option; needs torch, safetensors, sentencepiece

Each way is run twice; the second time counts, so that nothing is compiled. Rates are given by the
clock and by the processor's time, which other work on the machine disturbs less; for the latter run
it on one core: `taskset -c 0 python scripts/benchmarks/scoring.py ... --threads=1`.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
LENGTHS = (1024, 128)
BATCH_SIZE = 32
"""That of the original's scripts."""
ORIGINAL_SENTINEL = 250199
"""What the original does not score."""


def timed(run: Callable[[], list[int]]) -> dict[str, Any]:
    """Seconds of a second run, and what it chose."""
    run()
    start, start_of_work = time.perf_counter(), time.process_time()
    chosen = run()
    seconds, work = time.perf_counter() - start, time.process_time() - start_of_work
    return {"seconds": seconds, "processor_seconds": work, "chosen": chosen}


def time_torch(folder: str, questions: str, count: int, batch_size: int, threads: int) -> None:
    """Prints seconds and choices; runs in an environment with torch."""
    sys.path.insert(0, str(ROOT / "scripts"))
    import sentencepiece
    import torch
    from fixtures_prompts import prompt_of
    from openba_in_torch import OpenBA, Tokenizer, candidate, perplexity_scores
    from safetensors.torch import load_file

    torch.set_num_threads(threads)
    config = json.loads(Path(folder, "config.json").read_text())
    model = OpenBA(load_file(Path(folder, "model.safetensors")), config)
    file = next(Path(folder).glob("*.model"))
    tokenizer = Tokenizer(sentencepiece.SentencePieceProcessor(model_file=str(file)))
    table = json.loads(Path(folder, "templates.json").read_text())
    items = json.loads(Path(questions).read_text())[:count]

    def run() -> list[int]:
        chosen = []
        texts = []
        for each in items:
            prompts = [
                prompt_of(table, "ppl_5", each["demo"][:k], each["data"], {})[0] for k in range(6)
            ]
            texts.append(candidate(tokenizer, prompts, LENGTHS[0]))
        for start in range(0, len(items), batch_size):
            chunk = items[start : start + batch_size]
            options = [[each["data"][f"res{n}"] for n in range(1, 5)] for each in chunk]
            scores = perplexity_scores(
                *(model, tokenizer, texts[start : start + batch_size], options, LENGTHS),
                sentinel=ORIGINAL_SENTINEL,
            )
            chosen += scores.argmin(-1).tolist()
        return chosen

    print(json.dumps(timed(run)))


TEMPLATES = {
    "ppl_5": {
        "query": "Question: {q} OPTIONS: - {o1} - {o2} - {o3} - {o4} Answer: ",
        "intro_if_k_ge_1": "Fisrt, l will give you some examples. You need to answer the last "
        "question. Examples:",
        "demo": "Question: {q} OPTIONS: - {o1} - {o2} - {o3} - {o4} Answer:  {anstext} ",
        "tail_if_k_ge_1": "Please answer the following question. ",
    }
}


def time_ours(
    folder: Path, questions: str, count: int, batch_size: int, separate: bool
) -> dict[str, Any]:
    """Seconds and choices of this package."""
    import numpy as np

    from openba_jax.checkpoints.checkpoint import load_tree
    from openba_jax.checkpoints.formats.huggingface import HuggingFace
    from openba_jax.data.vocabularies.openba import OpenBAVocabulary
    from openba_jax.evaluation.asking import AskedModel
    from openba_jax.evaluation.benchmarks.registry import benchmark
    from openba_jax.evaluation.choosing import FramedQuestion, score_questions

    source = HuggingFace().open(folder)
    model = source.model.replace(dtype="float32")
    vocabulary = OpenBAVocabulary(next(folder.glob("*.model")), newline=False)
    asked = AskedModel(model, load_tree(source), vocabulary, *LENGTHS, batch_size)
    found = benchmark("mmlu:ppl_5", preset="original")
    items = next(iter(found.load(Path(questions)).values()))[:count]

    def run() -> list[int]:
        if not separate:
            return [record["choice"] for record in found.answers(items, asked)]
        framed = [found.framed(item, asked, {}) for item in items]
        alone = [
            FramedQuestion(each.prompt, [answer], each.start, each.unscored)
            for each in framed
            for answer in each.answers
        ]
        scored = score_questions(alone, ["a question"] * len(alone), asked, lambda _: None)
        means = np.array([sums[0] / tokens[0] for sums, tokens in scored]).reshape(len(items), -1)
        return means.argmax(-1).tolist()

    return timed(run)


def write_model(folder: Path, questions: str, embed: int, layers: int) -> None:
    """A model with random weights as a Hugging Face folder, with a tokenizer of the questions."""
    import jax
    import sentencepiece

    from openba_jax.checkpoints.formats.huggingface import HuggingFace
    from openba_jax.checkpoints.registry import open_checkpoint
    from openba_jax.checkpoints.training_state import create
    from openba_jax.models.registry import model_of, named_config

    items = json.loads(Path(questions).read_text())
    texts = [str(text) for each in items for text in each["data"].values()]
    trained = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts * 3),
        model_writer=trained,
        vocab_size=4000,
        hard_vocab_limit=False,
        **{"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1},
        minloglevel=2,
    )
    tokenizer = folder / "tokenizer.model"
    tokenizer.write_bytes(trained.getvalue())
    config = named_config(
        "tiny",
        vocab_size=8192,
        embed_dim=embed,
        num_heads=embed // 64,
        head_dim=64,
        mlp_dim=256 * -(-embed * 8 // 3 // 256),
        encoder_layers=layers,
        decoder_layers=layers,
        tie_embeddings=False,
    )
    model = model_of(config)
    params = jax.jit(model.init)(jax.random.key(0))
    create(folder / "native", model, params, tokenizer=tokenizer)
    (folder / "hf").mkdir()
    HuggingFace().write(open_checkpoint(folder / "native"), folder / "hf")
    (folder / "hf" / "tokenizer.model").write_bytes(trained.getvalue())
    (folder / "hf" / "templates.json").write_text(json.dumps(TEMPLATES))


def main() -> None:
    """Runs the three ways, and prints questions a second."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("questions")
    parser.add_argument("--torch_python", required=True)
    parser.add_argument("--count", type=int, default=64)
    parser.add_argument("--batch_size", type=int, default=BATCH_SIZE)
    parser.add_argument("--embed", type=int, default=256)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--output", default="")
    parser.add_argument("--time_torch", default="", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.time_torch:
        time_torch(given.time_torch, given.questions, given.count, given.batch_size, given.threads)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_model(folder, given.questions, given.embed, given.layers)
        found = {
            name: time_ours(folder / "hf", given.questions, given.count, given.batch_size, separate)
            for name, separate in (("shared", False), ("separate", True))
        }
        command = [given.torch_python, __file__, given.questions, "--torch_python=-"]
        command += [f"--time_torch={folder / 'hf'}", f"--count={given.count}"]
        command += [f"--threads={given.threads}", f"--batch_size={given.batch_size}"]
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
        found["torch"] = json.loads(done.stdout.splitlines()[-1])
    rates, by_work = (
        {name: given.count / each[key] for name, each in found.items()}
        for key in ("seconds", "processor_seconds")
    )
    agree = {
        name: sum(a == b for a, b in zip(each["chosen"], found["shared"]["chosen"], strict=True))
        for name, each in found.items()
    }
    report = {
        "questions": given.count,
        "embed": given.embed,
        "layers": given.layers,
        "threads": given.threads,
        "batch_size": given.batch_size,
        "questions_per_second": rates,
        "questions_per_processor_second": by_work,
        **{
            f"shared_to_{other}{suffix}": each["shared"] / each[other]
            for suffix, each in (("", rates), ("_by_processor", by_work))
            for other in ("separate", "torch")
        },
        "same_choices_as_shared": agree,
    }
    print(json.dumps(report, indent=2))
    if given.output:
        Path(given.output).write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
