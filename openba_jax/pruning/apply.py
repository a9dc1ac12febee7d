"""Prunes a checkpoint into another: opens, decides, writes, leaf by leaf.

The ancestor need not fit into memory, nor need the state of its optimizer.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from openba_jax.checkpoints import model_folder
from openba_jax.checkpoints.checkpoint import Checkpoint, total_bytes
from openba_jax.checkpoints.files.tensors import RowSlice
from openba_jax.checkpoints.folders import new_folder, require_free
from openba_jax.checkpoints.inspection import InspectedCheckpoint
from openba_jax.checkpoints.registry import FORMATS, detect, open_headers
from openba_jax.cli.progress import show_progress
from openba_jax.errors import UserError
from openba_jax.language import told
from openba_jax.models.axes import LAYERS, VOCAB, AxisTable, Leaf
from openba_jax.paths import local, reject_overlap
from openba_jax.pruning import saved_scores
from openba_jax.pruning.calibration import Calibration
from openba_jax.pruning.compensation.refit import (
    NO_COMPENSATION,
    check_compensation,
    refitted,
)
from openba_jax.pruning.criteria.base import RANDOM, WITHOUT_TEXT, Scores, Subject
from openba_jax.pruning.criteria.registry import score
from openba_jax.pruning.plan import Plan, pruned_model, relative
from openba_jax.pruning.saved_plan import plan_of
from openba_jax.pruning.selection import targets_of
from openba_jax.pruning.stages import Stage, apply_stage, check_method
from openba_jax.pruning.targets import check_tools, misfits
from openba_jax.pruning.transform import take_leaf
from openba_jax.pruning.vocabulary import pieces_of, prune_vocabulary, sum_counts

OWN_FORMATS = ("native", "t5x")
"""Formats that keep a plan and the state of an optimizer."""


class PrunedCheckpoint:
    """What a plan keeps of another checkpoint; a leaf is read, and cut, when it is asked for."""

    def __init__(
        self,
        inner: Checkpoint,
        child: Plan,
        parent: Plan,
        tokenizer: Path | None = None,
        keep_optimizer: bool = False,
    ) -> None:
        """Reads nothing.

        Args:
          inner: the model that `parent` describes.
          child: the plan of what is left.
          parent: the plan of `inner`.
          tokenizer: that of what is left.
          keep_optimizer: cut the state of the optimizer, too, and keep the step; otherwise what is
            left starts anew.

        Raises:
          UserError: the child keeps what the parent lacks, or there is no state to keep.
        """
        if keep_optimizer and inner.optimizer is None:
            raise UserError("there is no optimizer state to keep; prune without --keep_optimizer.")
        self.model = pruned_model(child, like=inner.model)
        self.tokenizer = tokenizer
        self.plan: str | None = json.dumps(child.to_dict())
        self.step = inner.step if keep_optimizer else 0
        self.optimizer = inner.optimizer if keep_optimizer else None
        self.data: Mapping[str, Any] = inner.data if keep_optimizer else {}
        self.carried: Mapping[str, Any] = inner.carried
        self.inner = inner
        self.child = child
        self.keep = relative(child, parent)

    def dtype(self, leaf: Leaf) -> np.dtype:
        """The type of a leaf."""
        return self.inner.dtype(self._before(leaf))

    def read(self, leaf: Leaf, rows: RowSlice = None) -> np.ndarray:
        """A leaf, its axes as in `model.axes.paths`; `rows` slices its axis `vocab`."""
        before, keep, span = self._before(leaf), self.keep, None
        if rows is not None:
            wanted = np.asarray(keep.get(VOCAB, range(self.model.axes.sizes[VOCAB])))[rows]
            # Kept rows stand in their old order, so that those between them are few.
            span = slice(int(wanted.min()), int(wanted.max()) + 1)
            keep = {**keep, VOCAB: wanted - span.start}
        whole = self.inner.read(before, span)
        return take_leaf(before.unrolled, whole, self.model.axes.paths[leaf.path], keep)

    def place(self, leaf: Leaf) -> str:
        """The file and the tensor that a leaf is cut from."""
        return self.inner.place(self._before(leaf))

    def _before(self, leaf: Leaf) -> Leaf:
        """The leaf that a kept one was."""
        if leaf.layer is None:
            return leaf
        layers = self.keep.get(self.model.axes.key(leaf.path, LAYERS))
        return leaf if layers is None else Leaf(leaf.path, layers[leaf.layer], leaf.slot)


def prune_checkpoint(
    source: str | Path,
    output: str | Path,
    stage: Stage,
    *,
    counts: Sequence[str | Path] = (),
    keep_optimizer: bool = False,
    output_format: str | None = None,
    one_based: bool = False,
    tools: Sequence[str] = (),
    calibration: Calibration | None = None,
    scores: str | Path | None = None,
    progress: bool = False,
) -> Plan:
    """Cuts a checkpoint as a stage says; the source is only read.

    Args:
      source: a checkpoint of any format that `checkpoints.registry` knows.
      output: the folder to write; it must be new or empty.
      stage: what to cut.
      counts: files of token counts of the model's own tokenizer, which are summed, for a stage that
        cuts the vocabulary.
      keep_optimizer: cut optimizer moments and step along, so that training can go on; otherwise
        the new folder starts at step 0 with parameters alone.
      output_format: of the folder to write: `native` or `t5x`; by default that of `source`, or
        `native`.
      one_based: the layers that the stage drops are counted from 1.
      tools: names of `targets.TOOLS`; what they refuse, or run badly, of the new sizes is logged as
        warnings before anything is written.
      calibration: text for the stage's criteria and its compensation, for those that look at text.
      scores: a file of scores to choose by, see `saved_scores`; by default they are computed. What
        was chosen by lies beside the plan.
      progress: show how far it is.

    Returns:
      The new plan, relative to the ancestor.

    Raises:
      UserError: the stage asks for what the model cannot give, a tool is unknown, `source` is no
        checkpoint or lacks what is to be kept, `scores` are of another checkpoint or criterion, a
        criterion or a compensation lacks text, gives values that are not finite, or finds nothing
        to do, `output` holds something, cannot be written, overlaps with `source`, `counts` or
        `scores` or is being written, or the disk is full.
    """
    check_tools(tools)
    source, output = local(source), local(output)
    counts = [local(file) for file in counts]
    _check_text(stage, calibration, scores)
    found = detect(source)
    _check_output(source, output, counts)
    if scores is not None:
        scores = local(scores)
        reject_overlap(scores, output, "file of scores")
    default = found.name if found.name in OWN_FORMATS else OWN_FORMATS[0]
    writer = FORMATS[output_format or default]
    opened = found.open(source)
    parent = plan_of(opened, source) or Plan.identity(opened.model, str(source))
    scorer = _Scorer(opened, calibration, scores, source)
    with _vocabulary(stage, opened.tokenizer, counts, source) as (tokenizer, rows):
        child = apply_stage(stage, parent, scorer=scorer, vocabulary_rows=rows, one_based=one_based)
        cut = PrunedCheckpoint(opened, child, parent, tokenizer, keep_optimizer)
        _warn_of_nothing_cut(stage, opened, cut)
        for sentence in misfits(cut.model, tools):
            logging.warning("%s", sentence)
        with (
            _compensated(stage, opened, cut, calibration, progress) as (fitted, child),
            show_progress(
                told("writing {path}", path=output), total_bytes(cut), "B", shown=progress
            ) as advance,
            new_folder(output) as folder,
        ):
            inspected = InspectedCheckpoint(fitted, advance=advance)
            writer.write(inspected, folder)
            scorer.save(folder / saved_scores.FILE)
            if found_values := inspected.warnings():
                raise UserError(
                    f"{found_values[0].rstrip('.')}; nothing is written. Prune a sound checkpoint."
                )
        model_folder.warn_without_tokenizer(cut, output)
    return child


def preview(
    source: str | Path,
    output: str | Path,
    stage: Stage,
    *,
    counts: Sequence[str | Path] = (),
    keep_optimizer: bool = False,
    one_based: bool = False,
    tools: Sequence[str] = (),
    calibration: Calibration | None = None,
    scores: str | Path | None = None,
) -> PrunedCheckpoint:
    """What `prune_checkpoint` would write: its shape and types; no parameter is read.

    What is kept is drawn at random here, whatever the stage says: sizes do not depend on it.
    Arguments as for `prune_checkpoint`; whether scores are of this very checkpoint is not told.

    Raises:
      UserError: as `prune_checkpoint`, for all that can be told without reading parameters.
    """
    check_tools(tools)
    _check_text(stage, calibration, scores)
    source, output = local(source), local(output)
    counts = [local(file) for file in counts]
    opened = open_headers(source)
    _check_output(source, output, counts)
    parent = plan_of(opened, source) or Plan.identity(opened.model, str(source))
    _check_choice(stage, opened.model.axes, scores)
    drawn = dataclasses.replace(stage, method=RANDOM, compensation=NO_COMPENSATION)
    with _vocabulary(stage, opened.tokenizer, counts, source) as (_, rows):
        child = apply_stage(drawn, parent, vocabulary_rows=rows, one_based=one_based)
    cut = PrunedCheckpoint(opened, child, parent, None, keep_optimizer)
    _warn_of_nothing_cut(stage, opened, cut)
    for sentence in misfits(cut.model, tools):
        logging.warning("%s", sentence)
    return cut


def _check_text(stage: Stage, calibration: Calibration | None, scores: str | Path | None) -> None:
    """Checks that there is text for what looks at it.

    Raises:
      UserError: there is none; or a method or the compensation is unknown.
    """
    check_method(stage.method)
    check_compensation(stage.compensation)
    if calibration is not None:
        return
    if stage.compensation != NO_COMPENSATION:
        raise UserError(
            f"the compensation {stage.compensation} needs text to fit on; give calibration batches "
            "(--calibration_stores)."
        )
    if stage.looks_at_text and scores is None:
        method = sorted(stage.methods - WITHOUT_TEXT)[0]
        raise UserError(
            f"the method {method} needs text to look at the model with; give calibration batches "
            "(--calibration_stores), or scores that have seen some."
        )


def _check_choice(stage: Stage, axes: AxisTable, scores: str | Path | None) -> None:
    """Checks what a stage chooses by, as far as no parameter tells.

    Raises:
      UserError: its methods do not fit its sizes, or `scores` is no file that has them.
    """
    methods = stage.methods_of(targets_of(axes, stage.all_sizes)) if stage.all_sizes else {}
    if scores is None:
        return
    saved = saved_scores.read(local(scores))
    for key, method in methods.items():
        if method != RANDOM:
            saved.of(method, [key], local(scores))


def _check_output(source: Path, output: Path, counts: Sequence[str | Path]) -> None:
    """Checks that a folder is free and none of what is read, before what takes long."""
    reject_overlap(model_folder.split_path(source)[0], output, "checkpoint to prune")
    for file in counts:
        reject_overlap(file, output, "file of counts")
    require_free(output)


def _warn_of_nothing_cut(stage: Stage, opened: Checkpoint, cut: PrunedCheckpoint) -> None:
    """Says so where a cut leaves as many parameters, or as many rows of a smaller vocabulary."""
    before, after = opened.model.axes, cut.model.axes
    if before.count() == after.count():
        logging.warning("The cut of %s leaves all %d parameters.", stage.name, after.count())
    if stage.vocabulary is not None and before.sizes[VOCAB] == after.sizes[VOCAB]:
        logging.warning(
            "The embedding keeps all of its %d rows, since their number is rounded up: the "
            "smaller vocabulary saves no parameter, and texts may take more tokens.",
            after.sizes[VOCAB],
        )


@contextlib.contextmanager
def _compensated(
    stage: Stage,
    whole: Checkpoint,
    cut: PrunedCheckpoint,
    calibration: Calibration | None,
    shown: bool,
) -> Iterator[tuple[Checkpoint, Plan]]:
    """What is written after a cut, and its plan, which records how it was fitted."""
    if stage.compensation == NO_COMPENSATION:
        yield cut, cut.child
        return
    assert calibration is not None  # Checked before the scores were computed.
    layers = sum(cut.model.axes.depth(stack) for stack in cut.model.stacks)
    with contextlib.ExitStack() as stack:
        with show_progress("fitting", layers, "layer", shown=shown) as advance:
            fitted, record = stack.enter_context(
                refitted(whole, cut, cut.keep, calibration, stage.compensation, advance)
            )
        child = cut.child.narrow({}, stage=stage.name, method="compensation", **record)
        fitted.plan = json.dumps(child.to_dict())
        yield fitted, child


class _Scorer:
    """Scores a checkpoint, or reads its scores; remembers them."""

    def __init__(
        self, opened: Checkpoint, text: Calibration | None, file: Path | None, source: Path
    ) -> None:
        """Reads `file`, if there is one.

        Raises:
          UserError: see `saved_scores.load`.
        """
        self._subject = Subject(opened.model, opened.read, text)
        self._opened = opened
        self._file = file
        self._saved = None if file is None else saved_scores.load(file, opened, source)
        self._found: Scores = {}
        self._methods: dict[str, str] = {}

    def __call__(self, method: str, keys: Sequence[str]) -> Scores:
        """Scores of some keys by a criterion."""
        if self._saved is not None and self._file is not None:
            found = self._saved.of(method, keys, self._file)
        else:
            found = score(method, self._subject, keys)
        self._found |= found
        self._methods |= dict.fromkeys(found, method)
        return found

    def save(self, path: Path) -> None:
        """Writes what was scored, if anything was."""
        if not self._found:
            return
        if self._saved is not None:
            digest, text = self._saved.fingerprint, self._saved.text
        else:
            read = self._subject.text
            digest = saved_scores.fingerprint(self._opened)
            text = {} if read is None else read.source
        saved_scores.SavedScores(self._found, self._methods, digest, text).save(path)


@contextlib.contextmanager
def _vocabulary(
    stage: Stage, tokenizer: Path | None, counts: Sequence[str | Path], source: Path
) -> Iterator[tuple[Path | None, Sequence[int] | None]]:
    """The tokenizer after a stage, a file for the time being, and the rows that stay."""
    if stage.vocabulary is None:
        yield tokenizer, None
        return
    if tokenizer is None or not counts:
        missing = "a tokenizer in the folder" if tokenizer is None else "token counts"
        raise UserError(f"cutting the vocabulary of {source} needs {missing}.")
    counted = sum_counts(counts, pieces_of(tokenizer))
    vocabulary = prune_vocabulary(tokenizer, counted, stage.vocabulary)
    if vocabulary.pieces > stage.vocabulary:
        logging.warning(
            "The vocabulary keeps %d pieces and not %d: %d others build its most frequent ones, "
            "and %d are bytes, controls or pieces of the user.",
            vocabulary.pieces,
            stage.vocabulary,
            vocabulary.merges,
            vocabulary.pieces - stage.vocabulary - vocabulary.merges,
        )
    with tempfile.TemporaryDirectory() as work:
        path = Path(work) / vocabulary.file
        vocabulary.save(path)
        yield path, vocabulary.rows
