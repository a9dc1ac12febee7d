r"""Talks with a model folder in the terminal; answers appear token by token.

openba-chat --gin_file=gin/runs/native/chat.gin --gin.MODEL_DIR='"runs/model"'
printf 'What is gold?\n' | openba-chat --gin_file=gin/runs/native/chat.gin \
  --gin.MODEL_DIR='"runs/model"'

Lines are messages, or commands that begin with a slash; /help lists them. Answers go to the
standard output, everything else to the standard error.
"""

from __future__ import annotations

from collections.abc import Sequence

from openba_jax import cli
from openba_jax.paths import local


def chat(
    model_dir: str,
    dialogue: str = "",
    chat_template: str = "",
    system: str = "",
    max_encoder_length: int | None = None,
    max_new_tokens: int = 512,
    temperature: float = 0.95,
    top_k: int = 0,
    top_p: float = 0.7,
    seed: int = 0,
    int8: str | Sequence[str] = (),
    mesh_shape: Sequence[int] = (1, 1, -1),
) -> None:
    """Talks with a model until the input ends.

    Args:
      model_dir: a model folder, or `DIR/checkpoints/<step>`.
      dialogue: the form of dialogues, see `serving.dialogue.DialogueReader`; "": the model's own.
      chat_template: a file with a chat template; "": that of the tokenizer.
      system: what the model is told before everything else.
      max_encoder_length: longest prompt in tokens; by default the model's own.
      max_new_tokens: longest answer in tokens.
      temperature: 0 for the likeliest tokens.
      top_k: sample from so many tokens; 0 for all.
      top_p: sample from tokens of this probability together.
      seed: for sampling.
      int8: what is in eight bits, `weights`, `cache` or both, see `inference.int8`.
      mesh_shape: data, fsdp, model; the first two must be 1.

    Raises:
      UserError: the model cannot be used, has no such form of dialogue, or a setting is out of its
        range.
    """
    from openba_jax.inference.decoding import Sampling
    from openba_jax.inference.slots import SlotDecoder
    from openba_jax.parallel import hardware
    from openba_jax.parallel.sharding import use_mesh
    from openba_jax.serving.conversation import Conversation, Settings
    from openba_jax.serving.dialogue import DialogueReader
    from openba_jax.serving.loading import load_for_slots, read_template
    from openba_jax.serving.terminal import converse

    settings = Settings(Sampling(temperature, top_k, top_p), max_new_tokens, seed)
    template = read_template(chat_template)
    placed, longest = load_for_slots(
        local(model_dir), mesh_shape, max_encoder_length, max_new_tokens, int8
    )
    reader = DialogueReader(placed.model, placed.vocabulary, longest, dialogue, template)
    with hardware.explain_out_of_memory(), use_mesh(placed.mesh):
        decoder = SlotDecoder(placed.model, placed.params, 1, longest, max_new_tokens)
        conversation = Conversation(decoder, placed.vocabulary, reader, settings, system)
        converse(conversation)


def main(argv: Sequence[str]) -> None:
    """Talks as the gin files say."""
    cli.run_configured(chat, argv)


def run() -> None:
    """Entry point."""
    cli.define_process_flags()
    cli.run_with_gin(main, "openba-chat")


if __name__ == "__main__":
    run()
