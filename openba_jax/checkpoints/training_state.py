"""Whole models, optimizer state included, out of model folders and T5X folders, and into either.

What only the parameters matter for goes layer by layer (`streaming`); a run that is to go on, or to
be pruned, needs everything, and everything is in memory here.

A T5X folder gets beside its `checkpoint_<step>` what a model folder has beside its checkpoints:
`config.json`, `plan.json`, `tokenizer.model`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from openba_jax.checkpoints.files.tensorstore_arrays import read_array
from openba_jax.checkpoints.folders import new_folder
from openba_jax.checkpoints.formats import native, t5x
from openba_jax.checkpoints.formats.native_arrays import write_checkpoint
from openba_jax.checkpoints.mapping import flatten, unflatten
from openba_jax.errors import UserError
from openba_jax.models.openba.config import OpenBAConfig

WholeKind = Literal["native", "t5x"]


@dataclasses.dataclass(frozen=True)
class WholeModel:
    """All that a checkpoint and its folder hold.

    Attributes:
      config: the configuration.
      params: the parameters, numpy arrays.
      opt_state: the state of the optax chain, a list with a dict, or None, for every link of it;
        None: there is none.
      step: number of steps taken.
      data: what native checkpoints hold besides; T5X has its own, which is left behind.
      plan: the pruning plan.
      tokenizer: the sentencepiece model.
    """

    config: OpenBAConfig
    params: Any
    opt_state: Any = None
    step: int = 0
    data: Mapping[str, Any] | None = None
    plan: Mapping[str, Any] | None = None
    tokenizer: Path | None = None


def kind_of(path: Path) -> WholeKind:
    """Which of the two kinds of folder `path` is, or is a checkpoint in.

    Raises:
      UserError: neither.
    """
    if (native.split_path(path)[0] / native.CHECKPOINTS).is_dir():
        return "native"
    try:
        t5x.find_checkpoint(path)
    except UserError as error:
        raise UserError(
            f"{path} holds no checkpoint: a model folder has checkpoints/<step>/, a T5X folder "
            "checkpoint_<step>/."
        ) from error
    return "t5x"


def read_whole(path: Path, config: OpenBAConfig | None = None) -> WholeModel:
    """Reads a model folder, a T5X folder (the newest checkpoint of it), or one checkpoint.

    Raises:
      UserError: it is neither, or it is damaged.
    """
    if kind_of(path) == "t5x":
        return _read_t5x(path, config)
    folder, _ = native.split_path(path)
    state, data = native.restore_raw(path)
    return WholeModel(
        native.load_config(folder),
        state["params"],
        state.get("opt_state"),
        int(state["step"]),
        data,
        native.load_plan(folder),
        native.tokenizer_path(folder),
    )


def write_whole(model: WholeModel, folder: Path, kind: WholeKind) -> None:
    """Writes a folder, which must be new or empty; it is there complete, or not at all.

    Raises:
      UserError: the folder holds something, the parameters are not those of the configuration, or
        the disk is full.
    """
    native.check_params(model.config, model.params)
    with new_folder(folder) as work:
        native.write_metadata(work, model.config, model.plan, model.tokenizer)
        if kind == "t5x":
            state: dict[str, Any] = {"step": np.asarray(model.step, np.int32)}
            if model.opt_state is not None:
                # T5X leaves links without arrays out.
                links = {
                    str(n): link for n, link in enumerate(model.opt_state) if _has_arrays(link)
                }
                state["param_states"] = links
            t5x.write_checkpoint(work, model.step, {"target": model.params, "state": state})
        else:
            state = {"params": model.params}
            if model.opt_state is not None:
                state["opt_state"] = model.opt_state
            write_checkpoint(work, model.step, state, model.data or {})


def _read_t5x(path: Path, config: OpenBAConfig | None) -> WholeModel:
    place = t5x.find_checkpoint(path)
    folder = place.parent
    source = t5x.open_t5x(place, config)
    state = unflatten(
        {name: read_array(array, place, name) for name, array in t5x.open_arrays(place).items()}
    )
    links = state["state"].get("param_states")
    return WholeModel(
        source.config,
        state["target"],
        None if links is None else _all_links(links, place),
        source.step,
        plan=native.load_plan(folder),
        tokenizer=native.tokenizer_path(folder),
    )


LINKS: tuple[tuple[str, ...], ...] = ((), ("count", "mu", "nu"), ("inner_state",), ("count",))
"""The states of the links of the chain `training.optimizer.adamw`; an empty one is None."""


def _all_links(links: Mapping[str, Any], where: Path) -> list[Any]:
    """The links of the chain, of which T5X leaves those without arrays out.

    Raises:
      UserError: the state is of another optimizer.
    """
    for name, link in links.items():
        known = LINKS[int(name)] if name in map(str, range(len(LINKS))) else ()
        if not isinstance(link, dict) or set(link) != set(known):
            raise UserError(
                f"{where}: the optimizer state has a part {name} that openba_jax's adamw does not "
                "have; only that can move between runners."
            )
    empty = [dict.fromkeys(names) or None for names in LINKS]  # As orbax gives back what is empty.
    return [links.get(str(number), link) for number, link in enumerate(empty)]


def _has_arrays(link: Any) -> bool:
    return link is not None and any(leaf is not None for leaf in flatten(link).values())
