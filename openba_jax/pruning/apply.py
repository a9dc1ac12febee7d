"""A checkpoint pruned into another, leaf by leaf: the ancestor need not fit into memory."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging
from tqdm import tqdm

from openba_jax.checkpoints.files.tensors import Rows
from openba_jax.checkpoints.folders import new_folder, require_free
from openba_jax.checkpoints.formats import native
from openba_jax.checkpoints.formats.native_arrays import write_native
from openba_jax.checkpoints.formats.t5x import write_t5x
from openba_jax.checkpoints.mapping import Leaf, Parameters, unflatten
from openba_jax.checkpoints.registry import detect, open_checkpoint
from openba_jax.checkpoints.streaming import InspectedSource, Source, unrolled_path
from openba_jax.checkpoints.training_state import WholeKind, read_whole, write_whole
from openba_jax.data.vocabulary import Vocabulary
from openba_jax.errors import UserError
from openba_jax.models.openba.config import OpenBAConfig
from openba_jax.models.openba.network import logical_axes
from openba_jax.paths import local, reject_overlap
from openba_jax.pruning.plan import Plan, pruned_config, relative
from openba_jax.pruning.stages import Stage, apply_stage
from openba_jax.pruning.transform import prune_opt_state, take, take_leaf
from openba_jax.pruning.vocabulary import pieces_of, prune_vocabulary, sum_counts


class PrunedSource:
    """What a plan keeps of another source; a leaf is read, and cut, when it is asked for."""

    def __init__(self, inner: Source, child: Plan, parent: Plan, tokenizer: Path | None) -> None:
        """Opens nothing.

        Args:
          inner: the model that `parent` describes.
          child: the plan of what is left.
          parent: the plan of `inner`.
          tokenizer: that of what is left.

        Raises:
          UserError: the child keeps what the parent lacks.
        """
        self.config = pruned_config(child, like=inner.config)
        self.parameters = Parameters(self.config)
        self.tokenizer = tokenizer
        self.plan: str | None = json.dumps(child.to_dict())
        self.step = 0
        self._inner = inner
        self._keep = relative(child, parent)

    def dtype(self, leaf: Leaf) -> np.dtype:
        """The type of a leaf."""
        return self._inner.dtype(self._before(leaf))

    def read(self, leaf: Leaf, rows: Rows = None) -> np.ndarray:
        """A leaf, its axes as in `parameters.axes`; `rows` slices its axis `vocab`."""
        before, keep, span = self._before(leaf), self._keep, None
        if rows is not None:
            wanted = np.asarray(keep.get("vocab", range(self.config.vocab_size)))[rows]
            # Kept rows stand in their old order, so that those between them are few.
            span = slice(int(wanted.min()), int(wanted.max()) + 1)
            keep = {**keep, "vocab": wanted - span.start}
        whole = self._inner.read(before, span)
        return take_leaf(unrolled_path(before), whole, self.parameters.axes[leaf.path], keep)

    def place(self, leaf: Leaf) -> str:
        """The file and the tensor that a leaf is cut from."""
        return self._inner.place(self._before(leaf))

    def _before(self, leaf: Leaf) -> Leaf:
        """The leaf that a kept one was."""
        if leaf.layer is None:
            return leaf
        layers = self._keep.get(f"{leaf.path.partition('/')[0]}/layers")
        return leaf if layers is None else Leaf(leaf.path, layers[leaf.layer])


class _Unread:
    """A leaf whose values are read when numpy asks for them, and not kept."""

    def __init__(self, source: Source, leaf: Leaf) -> None:
        self._source, self._leaf = source, leaf

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self._source.read(self._leaf), dtype)


def unread(source: Source) -> tuple[dict[str, Any], dict[str, Any]]:
    """The parameters of a source as an unrolled tree of leaves that are not read yet, and its axes.

    For selection methods that score: `np.asarray` reads a leaf.
    """
    leaves = source.parameters.leaves()
    axes = source.parameters.axes
    return (
        unflatten({unrolled_path(leaf): _Unread(source, leaf) for leaf in leaves}),
        unflatten({unrolled_path(leaf): axes[leaf.path] for leaf in leaves}),
    )


def prune_model(
    source: str | Path,
    output: str | Path,
    stage: Stage,
    *,
    counts: Sequence[str | Path] = (),
    keep_optimizer: bool = False,
    output_format: WholeKind | None = None,
    one_based: bool = False,
    progress: bool = False,
) -> Plan:
    """Cuts a checkpoint as a stage says; the source is only read.

    Parameters go leaf by leaf. With `keep_optimizer` all of the state is in memory.

    Args:
      source: a checkpoint of any kind that `formats.detect` knows.
      output: the folder to write; it must be new or empty.
      stage: what to cut.
      counts: files of token counts of the model's own tokenizer, which are summed, for a stage that
        cuts the vocabulary.
      keep_optimizer: cut optimizer moments and step along, so that training can go on; otherwise
        the new folder starts at step 0 with parameters alone.
      output_format: of the folder to write; by default that of `source`, or `native`.
      one_based: the layers that the stage drops are counted from 1.
      progress: show a bar on a terminal.

    Returns:
      The new plan, relative to the root ancestor.

    Raises:
      UserError: the stage asks for what the model cannot give, `source` is no checkpoint,
        `output` holds something, cannot be written, overlaps with `source` or `counts` or is being
        written, or the disk is full.
    """
    source, output = local(source), local(output)
    counts = [local(file) for file in counts]
    reject_overlap(native.split_path(source)[0], output, "checkpoint to prune")
    for file in counts:
        reject_overlap(file, output, "file of counts")
    require_free(output)  # Before what takes long.
    kind = detect(source)
    written: WholeKind = output_format or ("t5x" if kind == "t5x" else "native")
    if keep_optimizer:
        return _prune_state(source, output, stage, counts, written, one_based)
    opened = open_checkpoint(source)
    parent = _plan_of(opened.config, _parsed(opened.plan, source), source)
    with _vocabulary(stage, opened.tokenizer, counts, source) as (tokenizer, rows):
        params, axes = unread(opened)
        child = apply_stage(
            stage, parent, params=params, axes=axes, vocabulary_rows=rows, one_based=one_based
        )
        cut = PrunedSource(opened, child, parent, tokenizer)
        total = sum(
            math.prod(cut.parameters.shape(leaf.path)) * cut.dtype(leaf).itemsize
            for leaf in cut.parameters.leaves()
        )
        shown = progress and sys.stderr.isatty()
        with tqdm(total=total, unit="B", unit_scale=True, desc="pruning", disable=not shown) as bar:
            inspected = InspectedSource(cut, advance=bar.update)
            with new_folder(output) as folder:
                (write_native if written == "native" else write_t5x)(inspected, folder)
    for warning in inspected.warnings():
        logging.warning("%s", warning)
    return child


def _prune_state(
    source: Path,
    output: Path,
    stage: Stage,
    counts: Sequence[str | Path],
    written: WholeKind,
    one_based: bool,
) -> Plan:
    """Cuts a training state, optimizer and all."""
    model = read_whole(source)
    if model.opt_state is None:
        raise UserError(f"{source} has no optimizer state; prune without --keep_optimizer.")
    axes = logical_axes(model.config)
    parent = _plan_of(model.config, model.plan, source)
    with _vocabulary(stage, model.tokenizer, counts, source) as (tokenizer, rows):
        child = apply_stage(
            stage,
            parent,
            params=model.params,
            axes=axes,
            vocabulary_rows=rows,
            one_based=one_based,
        )
        keep = relative(child, parent)
        pruned = dataclasses.replace(
            model,
            config=pruned_config(child, like=model.config),
            params=take(model.params, axes, keep),
            opt_state=prune_opt_state(model.opt_state, axes, keep),
            plan=child.to_dict(),
            tokenizer=tokenizer,
        )
        write_whole(pruned, output, written)
    return child


def _parsed(plan: str | None, source: Path) -> dict[str, Any] | None:
    """The plan in a source's own text."""
    return None if plan is None else native.parse_plan(plan, source / native.PLAN)


def _plan_of(config: OpenBAConfig, plan: Mapping[str, Any] | None, source: Path) -> Plan:
    """The plan of a model; one that nothing was cut from is its own ancestor."""
    if plan is None:
        return Plan.identity(config, str(source))
    try:
        return Plan.from_dict(plan)
    except UserError as error:
        raise UserError(f"plan.json of {source}: {error}") from error


@contextlib.contextmanager
def _vocabulary(
    stage: Stage, tokenizer: Path | None, counts: Sequence[str | Path], source: Path
) -> Iterator[tuple[Path | None, Sequence[int] | None]]:
    """The tokenizer after a stage, a file for the time being, and the rows that stay."""
    if stage.vocabulary is None:
        yield tokenizer, None
        return
    if tokenizer is None or not counts:
        missing = "tokenizer.model in the folder" if tokenizer is None else "token counts"
        raise UserError(f"cutting the vocabulary of {source} needs {missing}.")
    counted = sum_counts(counts, pieces_of(tokenizer))
    newline = Vocabulary(tokenizer).newline
    vocabulary = prune_vocabulary(tokenizer, counted, stage.vocabulary, newline)
    if vocabulary.merges:
        logging.warning(
            "The vocabulary keeps %d pieces and not %d: its %d most frequent ones are built of "
            "%d others.",
            vocabulary.pieces,
            stage.vocabulary,
            stage.vocabulary,
            vocabulary.merges,
        )
    with tempfile.TemporaryDirectory() as work:
        path = Path(work) / "tokenizer.model"
        vocabulary.save(path)
        yield path, vocabulary.rows
