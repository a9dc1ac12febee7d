"""What a path holds, as data; headers are read, and no tensor."""

from __future__ import annotations

import collections
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from openba_jax.checkpoints import kinds, model_folder
from openba_jax.checkpoints.checkpoint import Checkpoint
from openba_jax.checkpoints.formats import t5x
from openba_jax.checkpoints.registry import checkpoints_in, detect, open_headers, recognised
from openba_jax.data.store.manifest import read_manifest
from openba_jax.data.store.token_store import TokenStore
from openba_jax.data.vocabularies.registry import open_vocabulary
from openba_jax.distillation.answers import SETTING
from openba_jax.errors import UserError
from openba_jax.models.base import Model
from openba_jax.pruning import saved_scores
from openba_jax.pruning.saved_plan import plan_of

Description = dict[str, Any]
"""Values that JSON takes, by name, in the order in which people read them."""


def describe(path: Path) -> Description:
    """What a path is: its `kind`, and what there is to say of one of that kind.

    Raises:
      UserError: it is nothing that is known, or damaged.
    """
    if (found := recognised(path)) is not None:
        head = {"path": str(path), "kind": found.name, "format": found.description}
        return {**head, **_checkpoint(path, open_headers(path))}
    kind = kinds.other_kind(path)
    if kind is None:
        inside = _inside(path)
        if not inside["checkpoints"]:
            detect(path)  # Raises, and names all that is known.
        return {"path": str(path), "kind": "folder", "format": "a folder", **inside}
    head = {"path": str(path), "kind": kind.name, "format": kind.words}
    return {**head, **_OTHERS.get(kind.name, _inside)(path)}


def _checkpoint(path: Path, opened: Checkpoint) -> Description:
    config, axes = opened.model.config, opened.model.axes
    types: collections.Counter[str] = collections.Counter()
    for leaf in axes.leaves():
        types[opened.dtype(leaf).name] += math.prod(axes.shape(leaf.path))
    return {
        **_shape(opened.model),
        "bytes": sum(jnp.dtype(name).itemsize * count for name, count in types.items()),
        "types": dict(types),
        "computes in": config.dtype,
        "step": opened.step,
        "checkpoints of steps": _steps(path),
        "optimizer": _has_optimizer(opened),
        "tokenizer": None if opened.tokenizer is None else _tokenizer(opened.tokenizer),
        "plan": _plan(path, opened),
    }


def _shape(model: Model) -> Description:
    return {
        "family": model.config.family,
        "layout": model.layout,
        "sizes": dict(model.axes.sizes),
        "parameters": model.axes.count(),
    }


def _has_optimizer(opened: Checkpoint) -> bool | str:
    """Whether there is the state of one; in words where it is of another optimizer than ours."""
    try:
        return opened.optimizer is not None
    except UserError:
        return "of another kind"


def _steps(path: Path) -> list[int]:
    """All steps that a folder has checkpoints of; none where the format has no such thing."""
    folder, step = model_folder.split_path(path)
    return [step] if step is not None else model_folder.steps(folder) or sorted(t5x.steps(path))


def _tokenizer(path: Path) -> Description:
    vocabulary = open_vocabulary(path)
    return {
        "file": str(path),
        "read as": vocabulary.kind,
        "pieces": vocabulary.piece_count,
        "ids": vocabulary.size,
    }


def _plan(path: Path, opened: Checkpoint) -> Description | None:
    plan = plan_of(opened, path)
    if plan is None:
        return None
    whole = plan.ancestor_model.axes.count()
    return {
        "ancestor": plan.source,
        "ancestor's sizes": dict(plan.ancestor_model.axes.sizes),
        "ancestor's parameters": whole,
        "share of the ancestor": round(opened.model.axes.count() / whole, 4),
        "steps": [dict(step) for step in plan.steps],
    }


def _store(path: Path) -> Description:
    prefix = kinds.store_prefix(path)
    assert prefix is not None
    store, manifest = TokenStore(prefix), read_manifest(prefix)
    kept: Description = {
        "prefix": str(prefix),
        "groups of text": store.count("text"),
        "instructions": store.count("instructions"),
        "longest": {
            "text": store.longest("text"),
            "input": store.longest("instructions"),
            "target": store.longest("instructions", "target"),
        },
        "type of ids": store.dtype.name,
    }
    if manifest is None:
        return {**kept, "made by": "another program"}
    vocabulary = manifest.get("vocabulary", {})
    return {
        **kept,
        "complete": bool(manifest["complete"]),
        "tokens": manifest.get("numbers", {}).get("tokens"),
        "vocabulary": vocabulary.get("path"),
        "pieces": vocabulary.get("pieces"),
    }


def _scores(path: Path) -> Description:
    found = saved_scores.read(path)
    return {
        "methods": dict(found.methods),
        "shapes": {key: list(values.shape) for key, values in found.scores.items()},
        "text": dict(found.text),
        "checkpoint": found.fingerprint,
    }


def _answers(path: Path) -> Description:
    return {"setting": _json(path / SETTING)}


def _unfinished(path: Path) -> Description:
    return _shape(model_folder.load_model(path))


def _weights(path: Path) -> Description:
    found = recognised(path.parent)
    return {"bytes": path.stat().st_size, "folder": str(path.parent) if found else None}


def _inside(path: Path) -> Description:
    found = checkpoints_in(path)
    return {"checkpoints": {str(each): _steps(each) for each in found}}


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read: {error}.") from error


_OTHERS: Mapping[str, Callable[[Path], Description]] = {
    "store": _store,
    "scores": _scores,
    "answers": _answers,
    "tokenizer": _tokenizer,
    "unfinished": _unfinished,
    "weights": _weights,
}
"""By the name of the kind; of the others it is said which checkpoints they hold."""
