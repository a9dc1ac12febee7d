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

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax import serialization

from openba_jax.checkpoints import native, t5x
from openba_jax.checkpoints.folders import new_folder
from openba_jax.checkpoints.mapping import flatten, unflatten
from openba_jax.errors import UserError
from openba_jax.model.config import OpenBAConfig
from openba_jax.training.optimizer import adamw, warmup_constant

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
      UserError: the folder holds something.
    """
    if kind == "t5x":
        _write_t5x(model, folder)
        return
    native.create(
        folder,
        model.config,
        model.params,
        plan=model.plan,
        tokenizer=model.tokenizer,
        opt_state=model.opt_state,
        step=model.step,
        data=dict(model.data or {}),
    )


def _read_t5x(path: Path, config: OpenBAConfig | None) -> WholeModel:
    place = t5x.find_checkpoint(path)
    folder = place.parent
    source = t5x.open_t5x(place, config)
    state = unflatten(
        {name: array.read().result() for name, array in t5x.open_arrays(place).items()}
    )
    links = state["state"].get("param_states")
    return WholeModel(
        source.config,
        state["target"],
        None if links is None else _all_links(links, state["target"]),
        source.step,
        plan=native.load_plan(folder),
        tokenizer=native.tokenizer_path(folder),
    )


def _all_links(links: Mapping[str, Any], params: Any) -> list[Any]:
    """The links of the chain `adamw`, of which T5X leaves those without arrays out.

    Raises:
      UserError: the state is of another optimizer.
    """
    chain = adamw(warmup_constant(0.0)).transformation
    whole = serialization.to_state_dict(jax.eval_shape(chain.init, params))

    def fill(expected: Any, found: Any) -> Any:
        if not isinstance(expected, dict):
            return found
        if not expected:
            return None  # As orbax gives back what is empty.
        return {name: fill(child, (found or {}).get(name)) for name, child in expected.items()}

    if not links.keys() <= whole.keys():
        raise UserError(
            f"the optimizer state has the parts {', '.join(links)}; only that of openba_jax's "
            "adamw can move between runners."
        )
    return [fill(whole[str(number)], links.get(str(number))) for number in range(len(whole))]


def _write_t5x(model: WholeModel, folder: Path) -> None:
    state: dict[str, Any] = {"step": np.asarray(model.step, np.int32)}
    if model.opt_state is not None:
        # T5X leaves links without arrays out.
        links = {str(n): link for n, link in enumerate(model.opt_state) if _has_arrays(link)}
        state["param_states"] = links
    with new_folder(folder) as work:
        native.write_metadata(work, model.config, model.plan, model.tokenizer)
        options = ocp.CheckpointManagerOptions(
            step_prefix=t5x.STEP_PREFIX, enable_async_checkpointing=False
        )
        with ocp.CheckpointManager(work.absolute(), options=options) as manager:
            tree = {"target": model.params, "state": state}
            manager.save(model.step, args=ocp.args.Composite(state=ocp.args.PyTreeSave(tree)))


def _has_arrays(link: Any) -> bool:
    return link is not None and any(leaf is not None for leaf in flatten(link).values())
