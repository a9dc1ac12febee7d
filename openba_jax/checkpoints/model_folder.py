"""The model folder: configuration, pruning plan, tokenizer, and where its checkpoints are.

    DIR/config.json              `ModelConfig.to_dict()`
    DIR/plan.json                pruning plan relative to the ancestor; absent: nothing pruned
    DIR/tokenizer.model          sentencepiece model, or
    DIR/tokenizer.json           Hugging Face's; neither: the model has no text. Beside it its
                                 settings, `tokenizer_settings.json`, if they are not the usual ones
    DIR/checkpoints/<step>/      items `state` (`params`, `opt_state`, `step`) and `data` (JSON),
                                 each with `checksums.json`
    DIR/damaged/<step>/          a checkpoint that a run has found damaged and gone back from

Everything that appears in it appears whole: files and folders are written beside and renamed.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from absl import logging

from openba_jax.checkpoints.checkpoint import Checkpoint
from openba_jax.data.vocabularies.registry import (
    TOKENIZER_FILES,
    follows_t5,
    is_tokenizer_json,
    open_vocabulary,
    settings_of,
)
from openba_jax.data.vocabularies.settings import (
    TokenizerSettings,
    settings_path,
    write_settings,
)
from openba_jax.errors import UserError
from openba_jax.files import write_atomically
from openba_jax.models import registry
from openba_jax.models.base import Model

CONFIG = "config.json"
PLAN = "plan.json"
TOKENIZER = TOKENIZER_FILES["sentencepiece"]
TOKENIZER_JSON = TOKENIZER_FILES["json"]
CHECKPOINTS = "checkpoints"
DAMAGED = "damaged"

MAX_PLAN_BYTES = 1 << 26
"""More than any plan takes; a list of all units of each layer of a large model is a few MB."""

PathLike = str | os.PathLike[str]


def check_params(model: Model, params: Any) -> None:
    """Checks that parameters have the shapes that the model has.

    Raises:
      UserError: one is missing, too much or different.
    """
    check_shapes(tree_shapes(params), tree_shapes(model.abstract_params()), "the given parameters")


def check_usable(folder: PathLike, model: Model) -> None:
    """Checks that a run of `model` can use `folder`: it is new, empty, or holds such a model.

    Raises:
      UserError: the folder is a file, holds something else, or a model of another shape.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; name a folder for the model.")
    if not folder.is_dir() or _is_empty(folder):
        return
    _check_is_model_folder(folder)
    if any(folder.glob("checkpoint_*")):
        raise UserError(
            f"{folder} is a T5X folder; name another, which openba-convert to_native makes from it."
        )
    found = load_model(folder)
    check_shapes(tree_shapes(found.abstract_params()), tree_shapes(model.abstract_params()), folder)


def write_metadata(
    folder: PathLike,
    model: Model,
    plan: Mapping[str, Any] | None = None,
    tokenizer: PathLike | None = None,
) -> None:
    """Writes `config.json`, `plan.json` and the tokenizer; what is None is left as it is.

    Args:
      folder: is made where it is missing.
      model: whose configuration it is.
      plan: the pruning plan.
      tokenizer: its file. What Hugging Face's files beside it say of it becomes its settings.

    Raises:
      UserError: the tokenizer cannot be read.
    """
    folder = Path(folder)
    write_atomically(folder / CONFIG, json.dumps(model.config.to_dict(), indent=2) + "\n")
    if plan is not None:
        write_atomically(folder / PLAN, json.dumps(plan) + "\n")
    if tokenizer is not None:
        path = Path(tokenizer)
        try:
            content = path.read_bytes()
        except OSError as error:
            raise UserError(f"tokenizer {tokenizer} cannot be read: {error.strerror}.") from error
        name = TOKENIZER_JSON if is_tokenizer_json(content) else TOKENIZER
        # Settings first: a tokenizer without them would be read another way.
        write_settings(folder / name, settings_of(path))
        write_atomically(folder / name, content)
        for other in {TOKENIZER, TOKENIZER_JSON} - {name}:
            (folder / other).unlink(missing_ok=True)


def write_metadata_of(checkpoint: Checkpoint, folder: PathLike) -> None:
    """Writes what a model folder holds besides checkpoints, for a model from elsewhere.

    Raises:
      UserError: the tokenizer or the plan cannot be read.
    """
    plan = None if checkpoint.plan is None else parse_plan(checkpoint.plan, PLAN)
    write_metadata(folder, checkpoint.model, plan, checkpoint.tokenizer)


def warn_without_tokenizer(checkpoint: Checkpoint, folder: PathLike) -> None:
    """Says that what was written to a folder knows no text, where that is so."""
    if checkpoint.tokenizer is None:
        logging.warning(
            "%s has no tokenizer, since its source has none: it cannot be asked anything; give it "
            "one by --tokenizer of openba-convert, or put tokenizer.model or tokenizer.json there.",
            folder,
        )


def split_path(path: PathLike) -> tuple[Path, int | None]:
    """A model folder and, where the path is `DIR/checkpoints/<step>`, the step."""
    path = Path(path)
    if path.parent.name == CHECKPOINTS and path.name.isdecimal():
        return path.parent.parent, int(path.name)
    return path, None


def steps(folder: PathLike) -> list[int]:
    """Steps of the checkpoints in a model folder, ascending; unfinished ones do not count."""
    checkpoints = Path(folder) / CHECKPOINTS
    if not checkpoints.is_dir():
        return []
    # Orbax gives a checkpoint its plain number only when it is complete.
    return sorted(int(path.name) for path in checkpoints.iterdir() if path.name.isdecimal())


def set_aside(folder: PathLike, step: int) -> Path:
    """Moves a damaged checkpoint out of the way, to `DIR/damaged/`; returns where it is."""
    source = Path(folder) / CHECKPOINTS / str(step)
    target = next(
        path
        for number in itertools.count()
        if not (
            path := Path(folder) / DAMAGED / (f"{step}.{number}" if number else f"{step}")
        ).exists()
    )
    target.parent.mkdir(exist_ok=True)
    source.rename(target)
    return target


def latest_step(folder: PathLike) -> int | None:
    """Step of the newest checkpoint in a model folder, None if there is none."""
    return max(steps(folder), default=None)


def existing_step(folder: PathLike, step: int | None) -> int:
    """The step of a checkpoint that is there; by default the newest.

    Raises:
      UserError: the folder has no checkpoint, or none of that step.
    """
    found = steps(folder)
    if not found:
        raise UserError(f"{folder} holds no checkpoint; a model folder has checkpoints/<step>/.")
    if step is not None and step not in found:
        raise UserError(
            f"{folder} has no checkpoint of step {step}; it has {', '.join(map(str, found))}."
        )
    return found[-1] if step is None else step


def load_model(folder: PathLike) -> Model:
    """The model in a model folder; its parameters are not read.

    Raises:
      UserError: there is no `config.json`, or it is not readable.
    """
    return registry.model_of(registry.load_config(Path(folder) / CONFIG))


def load_plan(folder: PathLike) -> dict[str, Any] | None:
    """`plan.json` of a model folder as it stands, None if nothing was pruned.

    Raises:
      UserError: it is not JSON.
    """
    text = plan_text(folder)
    return None if text is None else parse_plan(text, Path(folder) / PLAN)


def plan_path(source: PathLike) -> Path:
    """Where the plan of a checkpoint lies: in its model folder, or in the folder around it."""
    folder, _ = split_path(source)
    return next((f / PLAN for f in (folder, folder.parent) if (f / PLAN).exists()), folder / PLAN)


def plan_text(folder: PathLike) -> str | None:
    """The text of `plan.json` of a model folder, None if nothing was pruned.

    Raises:
      UserError: it is larger than any plan, or not JSON.
    """
    path = Path(folder) / PLAN
    if not path.exists():
        return None
    if (size := path.stat().st_size) > MAX_PLAN_BYTES:
        raise UserError(f"{path} has {size} bytes, which no pruning plan takes; it is damaged.")
    text = path.read_text(encoding="utf-8", errors="replace")
    parse_plan(text, path)
    return text


def check_tokenizer(folder: PathLike, tokenizer: PathLike) -> None:
    """Checks that `tokenizer` is the one of a model folder, if that has any.

    Raises:
      UserError: it is another one.
    """
    own = tokenizer_path(folder)
    if own is None or not Path(tokenizer).is_file():
        return
    if not same_tokenizer(own, tokenizer):
        raise UserError(
            f"{tokenizer} is not the tokenizer of the model in {folder}; give {own}, and stores "
            "made with it."
        )


def same_tokenizer(tokenizer: PathLike, other: PathLike) -> bool:
    """Whether two files of tokenizers, with the settings beside them, read texts alike."""
    return _tokenizer_content(Path(tokenizer)) == _tokenizer_content(Path(other))


def check_tokenizer_kind(model: Model, tokenizer: PathLike) -> None:
    """Checks that a model can use a tokenizer.

    A sentencepiece model must be read as the family of the model needs it: OpenBA's and T5's look
    the same, and have other ids behind their pieces. An encoder-decoder takes 0 for padding
    wherever it stands.

    Raises:
      UserError: it would be read as another kind, its id 0 is what ends a text, or it cannot be
        read.
    """
    path, mapping = Path(tokenizer), registry.family(model.config.family).huggingface
    if not path.is_file():
        return
    vocabulary = open_vocabulary(path)
    family, found = model.config.family, vocabulary.kind
    if model.layout == "encoder_decoder" and vocabulary.eos_id == 0:
        raise UserError(
            f"{path} ends texts with the id 0, which is padding in models of the family {family}; "
            "give a tokenizer whose id 0 is no token of a text."
        )
    wanted = None if mapping is None else mapping.tokenizer
    if wanted not in ("openba", "t5") or found in (wanted, "json"):
        return
    remedy = f'write {{"kind": "{wanted}"}} to {settings_path(path)}'
    if not follows_t5(path):
        remedy = "give one whose padding, end and unknown have the ids 0, 1 and 2"
    raise UserError(
        f"{path} is read as a tokenizer of the kind {found}, and models of the family {family} "
        f"need {wanted}; {remedy}."
    )


def _tokenizer_content(tokenizer: Path) -> tuple[bytes, TokenizerSettings]:
    """What makes two tokenizers the same: the file, and the settings without words for others."""
    settings = dataclasses.replace(settings_of(tokenizer), tokenizer_config={})
    return tokenizer.read_bytes(), settings


def parse_plan(text: str, where: PathLike) -> dict[str, Any]:
    """The JSON object of a pruning plan.

    Raises:
      UserError: it is none.
    """
    try:
        return dict(json.loads(text))
    except (ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{where} is no JSON object: {error}.") from error


def tokenizer_path(folder: PathLike) -> Path | None:
    """The tokenizer's file of a model folder, None if it has none."""
    paths = (Path(folder) / name for name in (TOKENIZER, TOKENIZER_JSON))
    return next((path for path in paths if path.exists()), None)


def tree_shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    """Shape of every leaf, by its path."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape)
        for path, leaf in jax.tree.leaves_with_path(tree)
    }


def check_shapes(
    found: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]], where: object
) -> None:
    """Raises a `UserError` that names the first tensor that is missing, too much or different."""
    for name, shape in wanted.items():
        if name not in found:
            raise UserError(f"{where} lacks {name}, which should have the shape {shape}.")
        if found[name] != shape:
            raise UserError(
                f"{where} has {name} of shape {found[name]}; it should have the shape {shape}."
            )
    for name in found:
        if name not in wanted:
            raise UserError(f"{where} has {name}, which the model does not know.")


def _check_is_model_folder(folder: Path) -> None:
    if not (folder / CONFIG).exists():
        raise UserError(
            f"{folder} holds something that is no model (no {CONFIG}); name a folder that is new, "
            "empty or holds this model."
        )


def _is_empty(folder: Path) -> bool:
    """Nothing is there, or the first file was being written when the writer was killed."""
    return all(path.name == f"{CONFIG}.tmp" for path in folder.iterdir())
