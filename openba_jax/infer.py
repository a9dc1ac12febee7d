r"""Answers prompts with a model folder.

openba-infer --gin_file=gin/runs/native/infer.gin --gin.MODEL_DIR='"runs/model"' \
  --gin.PROMPTS='["What is the capital of France?"]'
openba-infer --gin_file=gin/runs/native/infer.gin --gin.MODEL_DIR='"runs/model"' \
  --gin.INPUT_FILE='"prompts.jsonl"' --gin.OUTPUT_FILE='"answers.jsonl"'

A file of prompts is JSON lines with a column `inputs`, or plain text, one prompt a line. Answers
go to the terminal, or to a file of JSON lines `{"inputs", "prediction"}`. On several machines,
start it on each with the flags of openba-train; the first one writes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from openba_jax import cli
from openba_jax.cli import gin_values
from openba_jax.cli.progress import show_progress
from openba_jax.errors import UserError
from openba_jax.paths import address_or_local, check_output_file, local, reject_overlap


def infer(
    model_dir: str,
    prompts: str | Sequence[str] = (),
    input_file: str = "",
    output_file: str = "",
    max_encoder_length: int | None = None,
    max_new_tokens: int = 128,
    batch_size: int = 16,
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int = 0,
    beams: int = 1,
    length_penalty: float = 1.0,
    early_stopping: bool = False,
    parse_special: bool = False,
    template: str = "{}",
    int8: str | Sequence[str] = (),
    mesh_shape: Sequence[int] = (-1, 1, 1),
) -> None:
    """Answers prompts.

    Args:
      model_dir: a model folder, or `DIR/checkpoints/<step>`.
      prompts: texts to answer.
      input_file: more of them; "-" for the standard input.
      output_file: where answers go; by default to the terminal.
      max_encoder_length: longest prompt in tokens; by default the model's own.
      max_new_tokens: longest answer in tokens.
      batch_size: prompts at once.
      temperature: 0 for greedy answers.
      top_k: sample from so many tokens; 0 for all.
      top_p: sample from tokens of this probability together.
      seed: for sampling.
      beams: search with so many beams and take the best answer; 1 does not search.
      length_penalty: of beams; larger favours longer answers.
      early_stopping: of beams, stop as soon as so many answers are finished.
      parse_special: strings such as `</s>` in prompts become the special tokens that they name.
      template: what stands around prompts, `{}` being the prompt: the turns of a chat, say.
      int8: what is in eight bits, `weights`, `cache` or both, see `inference.int8`.
      mesh_shape: data, fsdp, model; the batch is rounded up to what data x fsdp divides.

    Raises:
      UserError: settings of sampling and beams are mixed, there is no prompt, one is too long or no
        valid Unicode, answers leave no room for prompts, model or files cannot be used, logits are
        not finite, or memory is full.
    """
    import jax

    from openba_jax.checkpoints.model_folder import split_path
    from openba_jax.files import write_atomically
    from openba_jax.inference.beam_search import BeamSettings
    from openba_jax.inference.decoding import Sampling
    from openba_jax.inference.generator import Generator
    from openba_jax.inference.int8 import parts_of, with_int8
    from openba_jax.inference.loading import load
    from openba_jax.inference.prompts import read_prompts
    from openba_jax.parallel import hardware
    from openba_jax.parallel.sharding import use_mesh

    if batch_size < 1 or max_new_tokens < 1:
        raise UserError("BATCH_SIZE and MAX_NEW_TOKENS must be at least 1.")
    parts = parts_of(int8)
    texts, places = read_prompts(gin_values.several(prompts), input_file)
    folder = local(model_dir)
    if output_file:
        reject_overlap(split_path(folder)[0], check_output_file(output_file), "model")
        if input_file and input_file != "-":
            reject_overlap(address_or_local(input_file), output_file, "file of prompts")
    sampling = Sampling(temperature, top_k, top_p)
    search = BeamSettings(beams, length_penalty, early_stopping)
    if beams > 1 and sampling != Sampling():
        raise UserError("BEAMS searches for the likeliest answer; leave out TEMPERATURE and TOP_*.")
    if beams == 1 and search != BeamSettings(1):
        raise UserError("LENGTH_PENALTY and EARLY_STOPPING are of beams; give BEAMS, too.")
    placed = with_int8(load(folder, mesh_shape), parts)
    if max_encoder_length is None:
        max_encoder_length = placed.model.config.longest_inputs(max_new_tokens)
        if max_encoder_length < 1:
            longest = sum(placed.model.config.lengths)
            raise UserError(
                f"MAX_NEW_TOKENS is {max_new_tokens}, and the model has {longest} positions for a "
                "prompt and its answer together; give less."
            )
    generator = Generator(
        placed.model,
        placed.params,
        placed.vocabulary,
        max_encoder_length,
        placed.rows(min(batch_size, len(texts))),
        parse_special,
        template,
    )
    answers: list[str] = []
    first = jax.process_index() == 0
    with (
        hardware.explain_out_of_memory(),
        use_mesh(placed.mesh),
        show_progress("answering", len(texts), "prompt", shown=first) as advance,
    ):
        for batch in generator.stream(
            texts,
            max_new_tokens=max_new_tokens,
            sampling=sampling,
            seed=seed,
            places=places,
            search=search if beams > 1 else None,
        ):
            answers += batch
            advance(len(batch))
    pairs = zip(texts, answers, strict=True)
    if not output_file:
        for text, answer in pairs:
            cli.say(f"{text}\n  -> {answer}")
    elif first:
        lines = [json.dumps({"inputs": t, "prediction": a}, ensure_ascii=False) for t, a in pairs]
        write_atomically(check_output_file(output_file), "\n".join(lines) + "\n")
        cli.say(f"{output_file}: {len(lines)} answers")


def main(argv: Sequence[str]) -> None:
    """Answers as the gin files say."""
    cli.run_configured(infer, argv)


def run() -> None:
    """Entry point."""
    cli.define_process_flags()
    cli.run_with_gin(main, "openba-infer")


if __name__ == "__main__":
    run()
