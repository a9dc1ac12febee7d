"""Model folders, made ready for slots."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from openba_jax.checkpoints.model_folder import split_path
from openba_jax.errors import UserError
from openba_jax.inference.int8 import parts_of, with_int8
from openba_jax.inference.loading import PlacedModel, load, unrolled
from openba_jax.inference.prompts import frame_of
from openba_jax.paths import local
from openba_jax.serving.app import Served
from openba_jax.serving.dialogue import DialogueReader
from openba_jax.serving.engine import Engine


def load_for_slots(
    model_dir: str | Path,
    mesh_shape: Sequence[int],
    max_encoder_length: int | None,
    max_new_tokens: int,
    int8: str | Sequence[str] = (),
) -> tuple[PlacedModel, int]:
    """Reads a model folder, and works out how long its prompts may be.

    Args:
      model_dir: a model folder, or `DIR/checkpoints/<step>`.
      mesh_shape: data, fsdp, model.
      max_encoder_length: longest prompt in tokens; None: the longest that the model was made for.
      max_new_tokens: longest answer in tokens.
      int8: what is in eight bits, see `inference.int8.parts_of`.

    Returns:
      The model, and the longest prompt.

    Raises:
      UserError: the folder cannot be used, the mesh divides rows, or there is no room for prompts
        or answers.
    """
    import jax

    if jax.process_count() > 1:
        raise UserError("only one process can answer one after another; start one alone.")
    parts = parts_of(int8)
    if max_new_tokens < 1 or (max_encoder_length is not None and max_encoder_length < 1):
        raise UserError("MAX_NEW_TOKENS and MAX_ENCODER_LENGTH must be at least 1.")
    if any(size != 1 for size in tuple(mesh_shape)[:2]):
        raise UserError(
            f"MESH_SHAPE is {tuple(mesh_shape)}; a slot is one row, which nothing divides: give "
            "(1, 1, -1), which lays the model over all devices."
        )
    placed = with_int8(unrolled(load(model_dir, mesh_shape)), parts)
    if max_encoder_length is None:
        max_encoder_length = placed.model.config.longest_inputs(max_new_tokens)
        if max_encoder_length < 1:
            longest = sum(placed.model.config.lengths)
            raise UserError(
                f"MAX_NEW_TOKENS is {max_new_tokens}, and the model has {longest} positions for a "
                "prompt and its answer together; give less."
            )
    return placed, max_encoder_length


def read_template(file: str) -> str | None:
    """The text of a chat template; None where no file is named.

    Raises:
      UserError: the file cannot be read.
    """
    if not file:
        return None
    try:
        return local(file).read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"CHAT_TEMPLATE {file} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise UserError(f"CHAT_TEMPLATE {file} is not UTF-8.") from error


def names_of(folders: Sequence[Path]) -> list[str]:
    """The names that models are served by: those of their folders.

    Raises:
      UserError: there is no folder, or two have one name.
    """
    if not folders:
        raise UserError("MODEL_DIRS is empty; name a model folder.")
    names = []
    for folder in folders:
        above, step = split_path(folder)
        name = above.resolve().name
        names.append(name if step is None else f"{name}-{step}")
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"two of MODEL_DIRS are called {name}; rename a folder.")
    return names


def start_serving(
    folder: Path,
    mesh_shape: Sequence[int],
    *,
    slots: int,
    queue_length: int,
    max_encoder_length: int | None,
    max_new_tokens: int,
    dialogue: str,
    template: str | None,
    parse_special: bool,
    int8: str | Sequence[str] = (),
) -> Served:
    """Reads a model folder and starts an engine for it.

    Args:
      folder: a model folder, or `DIR/checkpoints/<step>`.
      mesh_shape: data, fsdp, model.
      slots: see `Engine`.
      queue_length: see `Engine`.
      max_encoder_length: see `load_for_slots`.
      max_new_tokens: longest answer.
      dialogue: see `DialogueReader`.
      template: see `DialogueReader`.
      parse_special: see `PromptFrame`.
      int8: see `load_for_slots`.

    Raises:
      UserError: as `load_for_slots`, `DialogueReader` and `Engine`.
      RuntimeError: the model cannot be compiled.
    """
    placed, longest = load_for_slots(folder, mesh_shape, max_encoder_length, max_new_tokens, int8)
    model, vocabulary = placed.model, placed.vocabulary
    frame = frame_of(model, vocabulary)(vocabulary, longest, parse_special=parse_special)
    reader = DialogueReader(model, vocabulary, longest, dialogue, template)
    engine = Engine(placed, slots, longest, max_new_tokens, queue_length)
    engine.start()
    return Served(engine, frame, reader)
