"""Staged pruning as data: what each stage cuts and how it recovers (docs/original.md, Stages)."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

from openba_jax.errors import UserError
from openba_jax.models.axes import LAYERS, AxisTable, axis_of, join
from openba_jax.models.base import Model
from openba_jax.pruning.compensation.refit import NO_COMPENSATION, check_compensation
from openba_jax.pruning.criteria import registry
from openba_jax.pruning.criteria.base import RANDOM, WITHOUT_TEXT, Scores, check_keys
from openba_jax.pruning.plan import Plan, pruned_model
from openba_jax.pruning.selection import Selection, best, drawn, targets_of


@dataclasses.dataclass(frozen=True)
class Stage:
    """One step of a schedule: prune, then recover.

    Attributes:
      name: of the stage, used for folders and records.
      drop_encoder: encoder layers to drop, in the ancestor's numbering, from 0.
      drop_decoder: the same for the decoder.
      drop: the same for the stack that each key names, which serves stacks of any name.
      embed: channels to reach; None leaves them.
      heads: attention heads to reach; None leaves them.
      mlp: feed-forward units to reach; None leaves them.
      sizes: sizes to reach of any axes, by key (`decoder/layers`) or by name (`mlp`).
      vocabulary: pieces to keep by frequency; None leaves the vocabulary.
      method: how all but named layers and the vocabulary are chosen: a name of
        `criteria.registry.names()`; or one for each key or name of an axis, `*` for those that are
        not named: `{"layers": "block_influence", "*": "taylor"}`.
      seed: for methods that draw.
      slices: equal parts of heads and units, one for each device of tensor parallelism, that keep
        the same places each; for methods that draw.
      recover_tokens: tokens of training after the cut.
      recover_objective: what it trains on: `ul2`, `d_ul2`, `o_ul2`; empty without recovery.
      compensation: how what reads the cut axes is fitted anew right after the cut; `none`: it is
        not.
      calibration_batches: how many batches a method or a compensation that needs text may see.
      distillation: how the recovery learns from a teacher, a `Distillation`, whose teacher is a
        model folder, `ancestor`, or `before`, the model that this stage cuts; None: from text
        alone.
    """

    name: str
    drop_encoder: Sequence[int] = ()
    drop_decoder: Sequence[int] = ()
    drop: Mapping[str, Sequence[int]] = dataclasses.field(default_factory=dict)
    embed: int | None = None
    heads: int | None = None
    mlp: int | None = None
    sizes: Mapping[str, int] = dataclasses.field(default_factory=dict)
    vocabulary: int | None = None
    method: str | Mapping[str, str] = RANDOM
    seed: int = 1234
    slices: int = 1
    recover_tokens: int = 0
    recover_objective: str = ""
    compensation: str = NO_COMPENSATION
    calibration_batches: int = 8
    distillation: Any = None

    def __post_init__(self) -> None:
        """Checks that nothing is given twice, and that slices have something to draw.

        Raises:
          UserError: `sizes` names an axis, or `drop` a stack, that has a field of its own, and that
            field is set; `slices` is below 1, or above 1 where nothing is drawn; or there are less
            than 0 tokens or no calibration batches, or the compensation is unknown, or fits by text
            that the vocabulary is cut for.
        """
        for stack in self.drop:
            if getattr(self, f"drop_{stack}", ()):
                raise UserError(
                    f"stage {self.name} gives {stack} layers to drop twice, in drop and in "
                    f"drop_{stack}; give them once."
                )
        for name in ("embed", "heads", "mlp"):
            if name in self.sizes and getattr(self, name) is not None:
                raise UserError(
                    f"stage {self.name} gives {name} twice, {getattr(self, name)} and "
                    f"{self.sizes[name]}; give it once."
                )

        if self.recover_tokens < 0 or self.calibration_batches < 1:
            name, least = (
                ("recover_tokens", 0) if self.recover_tokens < 0 else ("calibration_batches", 1)
            )
            raise UserError(
                f"stage {self.name} has {getattr(self, name)} {name}; give {least} or more."
            )
        check_compensation(self.compensation)
        if self.compensation != NO_COMPENSATION and self.vocabulary is not None:
            raise UserError(
                f"stage {self.name} cuts the vocabulary and fits by text, which the smaller "
                "vocabulary cannot read; give the two to two stages."
            )
        if self.slices < 1:
            raise UserError(f"stage {self.name} has {self.slices} slices; it must be 1 or more.")
        if self.slices > 1 and not (self.all_sizes and self.method == RANDOM):
            raise UserError(
                f"stage {self.name} has {self.slices} slices, but draws no sizes at {RANDOM}; give "
                "slices to a stage that does, or none."
            )

    @property
    def all_sizes(self) -> dict[str, int]:
        """Sizes to reach, by key or name of an axis."""
        named = {"embed": self.embed, "heads": self.heads, "mlp": self.mlp}
        return {**{name: n for name, n in named.items() if n is not None}, **self.sizes}

    @property
    def dropped(self) -> dict[str, Sequence[int]]:
        """Layers to drop, by stack."""
        named = {"encoder": self.drop_encoder, "decoder": self.drop_decoder, **self.drop}
        return {stack: numbers for stack, numbers in named.items() if numbers}

    @property
    def methods(self) -> set[str]:
        """How sizes are reached, by whatever criteria; nothing where the stage reaches none."""
        if not self.all_sizes:
            return set()
        return {self.method} if isinstance(self.method, str) else set(self.method.values())

    @property
    def looks_at_text(self) -> bool:
        """Whether the cut needs batches: for its scores, or to fit anew what it leaves."""
        return bool(self.methods - WITHOUT_TEXT) or self.compensation != NO_COMPENSATION

    def methods_of(self, targets: Collection[str]) -> dict[str, str]:
        """How each of some keys is chosen.

        Raises:
          UserError: `method` has none for a key, names what is not cut, or one is unknown or
            scores no such axis.
        """
        if isinstance(self.method, str):
            check_method(self.method)
            check_keys(self.method, targets)
            return dict.fromkeys(targets, self.method)
        found: dict[str, str] = {}
        used: set[str] = set()
        for key in targets:
            name = next((n for n in (key, axis_of(key), ELSE) if n in self.method), None)
            if name is None:
                raise UserError(
                    f"stage {self.name} has no method for {key}; give one for it, or for "
                    f"{ELSE!r}, all that is not named."
                )
            used.add(name)
            found[key] = self.method[name]
            check_method(found[key])
            check_keys(found[key], [key])
        if unused := sorted(set(self.method) - used):
            raise UserError(
                f"stage {self.name} has a method for {unused[0]}, which it does not cut."
            )
        return found

    @property
    def cuts(self) -> bool:
        """Whether anything is cut."""
        return bool(self.all_sizes or self.dropped or self.vocabulary is not None)


OPENBA_V2_STAGES = (
    Stage(
        "stage1_12b",
        drop_encoder=(4, 8),
        drop_decoder=(7, 11, 18, 20, 22, 30),
        recover_tokens=10_000_000_000,
        recover_objective="d_ul2",
    ),
    Stage(
        "stage2_11b",
        drop_encoder=(6, 10),
        drop_decoder=(4, 16, 27),
        recover_tokens=10_000_000_000,
        recover_objective="d_ul2",
    ),
    Stage(
        "stage3_10b",
        drop_decoder=(10, 24, 33),
        recover_tokens=15_000_000_000,
        recover_objective="d_ul2",
    ),
    Stage(
        "stage4_3_8b",
        embed=2560,
        heads=20,
        mlp=6912,
        recover_tokens=65_000_000_000,
        recover_objective="d_ul2",
    ),
    Stage("stage5_3_8b", recover_tokens=700_000_000_000, recover_objective="o_ul2"),
    Stage("openba_v2_3_4b", vocabulary=120_000),
)
"""The published schedule, from `openba_15b`: five cuts, and stage 5, which only trains."""

LLAMA_STAGES = (
    Stage(
        "llama2_3_4b",
        drop={"decoder": (7, 13, 18, 24)},
        embed=3072,
        heads=24,
        mlp=8192,
        slices=4,
        recover_tokens=12_000_000_000,
        recover_objective="causal_lm",
    ),
)
"""The published cut of LLaMA-2, from `llama2_7b` (docs/original.md, LLaMA)."""


Scorer = Callable[[str, Sequence[str]], Scores]
"""(name of a criterion, keys) -> their scores."""

ELSE = "*"
"""In `Stage.method`, all that is not named."""


def only_stack(model: Model) -> str:
    """The stack of a model that has one.

    Raises:
      UserError: the model has several.
    """
    if len(model.stacks) > 1:
        known = " and ".join(model.stacks)
        flags = " or ".join(f"drop_{stack}_layers" for stack in model.stacks)
        raise UserError(
            f"drop_layers is for models with one stack of layers, and a model of the family "
            f"{model.config.family} has {known}; name the stack with {flags}."
        )
    return model.stacks[0]


def check_method(method: str | Mapping[str, str]) -> None:
    """Checks that a method of a stage, or each of several, is known.

    Raises:
      UserError: it is not.
    """
    if not isinstance(method, str):
        for each in method.values():
            check_method(each)
    elif method not in (known := registry.names()):
        close = difflib.get_close_matches(method, known, 1)
        hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(known)}."
        raise UserError(f"no pruning method is called {method!r}; {hint}")


def apply_stage(
    stage: Stage,
    plan: Plan,
    *,
    scorer: Scorer | None = None,
    vocabulary_rows: Sequence[int] | None = None,
    one_based: bool = False,
) -> Plan:
    """The plan of the model that a stage makes, before its recovery.

    Args:
      stage: what to cut.
      plan: that of the loaded model.
      scorer: scores the loaded model by the stage's methods, unless these are `random`.
      vocabulary_rows: `PrunedVocabulary.rows`, counted in the loaded model, if the stage cuts the
        vocabulary.
      one_based: the layers that the stage drops are counted from 1.

    Raises:
      UserError: the stage asks for what the loaded model cannot give, its method is unknown, or
        scores or rows are missing.
    """
    for stack in stage.dropped:
        if (key := join(stack, LAYERS)) in stage.all_sizes or LAYERS in stage.all_sizes:
            raise UserError(
                f"stage {stage.name} names {stack} layers to drop and a number of them to keep "
                f"({key}); give one of the two."
            )
    check_method(stage.method)
    loaded = plan
    # Sizes first: the original draws for all loaded layers, dropped ones included.
    if stage.all_sizes:
        axes = pruned_model(loaded).axes
        targets = targets_of(axes, stage.all_sizes)
        for selection in _selections(stage, axes, targets, scorer):
            keep = loaded.to_ancestor(selection.keep)
            plan = plan.narrow(keep, stage=stage.name, **selection.record)
    if stage.dropped:
        plan = plan.drop_layers(stage.dropped, stage=stage.name, one_based=one_based)
    if stage.vocabulary is not None:
        if vocabulary_rows is None:
            raise UserError(
                f"stage {stage.name} cuts the vocabulary to {stage.vocabulary} pieces; give a "
                "tokenizer and token counts."
            )
        rows = loaded.to_ancestor({"vocab": vocabulary_rows})
        record = {"stage": stage.name, "method": "frequency", "pieces": stage.vocabulary}
        plan = plan.narrow(rows, **record)
    return plan


def _selections(
    stage: Stage, axes: AxisTable, targets: Mapping[str, int], scorer: Scorer | None
) -> Iterator[Selection]:
    """What a stage draws, and then what it chooses by scores."""
    methods = stage.methods_of(targets)
    at_random = {key: size for key, size in targets.items() if methods[key] == RANDOM}
    if at_random:
        yield drawn(axes, at_random, stage.seed, stage.slices)
    scored = {key: size for key, size in targets.items() if key not in at_random}
    if not scored:
        return
    if scorer is None:
        raise UserError(
            f"stage {stage.name} cuts by {methods[next(iter(scored))]}, which needs the parameters "
            "of the model."
        )
    scores: Scores = {}
    for method in dict.fromkeys(methods[key] for key in scored):
        scores |= scorer(method, [key for key in scored if methods[key] == method])
    by = {methods[key] for key in scored}
    name = by.pop() if len(by) == 1 else {key: methods[key] for key in scored}
    yield best(axes, scores, scored, name)


def merge_stages(stages: Sequence[Stage], name: str = "all_at_once") -> Stage:
    """One stage that cuts what several cut, and recovers with the sum of their tokens.

    The control of the staged schedule. Sizes are those of the last stage that sets them; method,
    seed, slices and compensation (none, if the vocabulary is cut, whose text is not that of the
    ancestor) those of the last stage that cuts width; objective and
    distillation those of the last that recovers.

    Raises:
      UserError: there is nothing to merge.
    """
    if not stages:
        raise UserError("there are no stages to merge; a schedule has at least one.")

    def last(field: str, among: Sequence[Stage]) -> Any:
        default = next(f.default for f in dataclasses.fields(Stage) if f.name == field)
        values = [getattr(stage, field) for stage in among if getattr(stage, field) is not None]
        return values[-1] if values else default

    cutting = [stage for stage in stages if stage.all_sizes]
    recovering = [stage for stage in stages if stage.recover_tokens]
    vocabulary = last("vocabulary", stages)
    of_cuts = {field: last(field, cutting) for field in _OF_CUTS}
    if vocabulary is not None:
        of_cuts["compensation"] = NO_COMPENSATION
    dropped: dict[str, tuple[int, ...]] = {}
    for stage in stages:
        for stack, numbers in stage.dropped.items():
            dropped[stack] = (*dropped.get(stack, ()), *numbers)
    return Stage(
        name,
        drop_encoder=dropped.pop("encoder", ()),
        drop_decoder=dropped.pop("decoder", ()),
        drop=dropped,
        vocabulary=vocabulary,
        sizes=_last_sizes(stages),
        **of_cuts,
        recover_tokens=sum(stage.recover_tokens for stage in stages),
        **{field: last(field, recovering) for field in _OF_RECOVERIES},
    )


def at_random(stage: Stage) -> Stage:
    """The same cut as the original makes it: width at random, nothing fitted, no teacher."""
    return dataclasses.replace(
        stage, method=RANDOM, compensation=NO_COMPENSATION, distillation=None
    )


_OF_CUTS = ("method", "seed", "slices", "compensation", "calibration_batches")
_OF_RECOVERIES = ("recover_objective", "distillation")


def _last_sizes(stages: Sequence[Stage]) -> dict[str, int]:
    """The sizes that stages reach one after the other; the name of an axis speaks of all stacks."""
    sizes: dict[str, int] = {}
    for stage in stages:
        for name, size in stage.all_sizes.items():
            sizes = {key: old for key, old in sizes.items() if name not in (key, axis_of(key))}
            sizes[name] = size
    return sizes
