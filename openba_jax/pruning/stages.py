"""Staged pruning as data: what each stage cuts and how it recovers (reference §5.4, §6.2)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from openba_jax.errors import UserError
from openba_jax.pruning.plan import Plan
from openba_jax.pruning.selection import Widths, select_width


@dataclasses.dataclass(frozen=True)
class Stage:
    """One step of a schedule: prune, then recover.

    Attributes:
      name: of the stage, used for folders and records.
      drop_encoder: encoder layers to drop, root numbering, from 0 unless said otherwise.
      drop_decoder: the same for the decoder.
      embed: channels to reach; None leaves them.
      heads: attention heads to reach; None leaves them.
      mlp: feed-forward units to reach; None leaves them.
      vocabulary: pieces to keep by frequency; None leaves the vocabulary.
      method: how width is selected, a name of `selection.WIDTH_METHODS`.
      seed: for methods that draw.
      recover_tokens: tokens of training after the cut.
      recover_objective: what it trains on: `ul2`, `d_ul2`, `o_ul2`; empty without recovery.
    """

    name: str
    drop_encoder: Sequence[int] = ()
    drop_decoder: Sequence[int] = ()
    embed: int | None = None
    heads: int | None = None
    mlp: int | None = None
    vocabulary: int | None = None
    method: str = "random"
    seed: int = 1234
    recover_tokens: int = 0
    recover_objective: str = ""

    @property
    def cuts_width(self) -> bool:
        """Whether channels, heads or units are cut."""
        return any(size is not None for size in (self.embed, self.heads, self.mlp))


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


def apply_stage(
    stage: Stage,
    plan: Plan,
    *,
    params: Mapping[str, Any] | None = None,
    axes: Mapping[str, Any] | None = None,
    vocabulary_rows: Sequence[int] | None = None,
    one_based: bool = False,
) -> Plan:
    """The plan of the model that a stage makes, before its recovery.

    Args:
      stage: what to cut.
      plan: that of the loaded model.
      params: the loaded model's parameters, for methods that score.
      axes: the names of their axes.
      vocabulary_rows: `PrunedVocabulary.rows`, counted in the loaded model, if the stage cuts the
        vocabulary.
      one_based: the layers that the stage drops are counted from 1.

    Raises:
      UserError: the stage asks for what the loaded model cannot give, or rows are missing.
    """
    record = {"stage": stage.name}
    loaded = plan
    # Width first: the original draws for all loaded layers, dropped ones included (§6.3).
    if stage.cuts_width:
        selection = select_width(
            stage.method,
            loaded,
            Widths(stage.embed, stage.heads, stage.mlp),
            seed=stage.seed,
            params=params,
            axes=axes,
        )
        plan = plan.narrow(selection.keep, **record, **selection.record)
    if stage.drop_encoder or stage.drop_decoder:
        plan = plan.drop_layers(
            stage.drop_encoder, stage.drop_decoder, stage=stage.name, one_based=one_based
        )
    if stage.vocabulary is not None:
        if vocabulary_rows is None:
            raise UserError(
                f"stage {stage.name} cuts the vocabulary to {stage.vocabulary} pieces; give a "
                "tokenizer and token counts."
            )
        rows = loaded.to_root({"vocab": vocabulary_rows})
        plan = plan.narrow(rows, **record, method="frequency", pieces=stage.vocabulary)
    return plan


def merge_stages(stages: Sequence[Stage], name: str = "all_at_once") -> Stage:
    """One stage that cuts what several cut, and recovers with the sum of their tokens.

    The control of the staged schedule. Sizes are those of the last stage that sets them; method and
    seed those of the last stage that cuts width; the objective that of the last that recovers.

    Raises:
      UserError: there is nothing to merge.
    """
    if not stages:
        raise UserError("there are no stages to merge; a schedule has at least one.")

    def last(field: str, among: Sequence[Stage]) -> Any:
        default = next(f.default for f in dataclasses.fields(Stage) if f.name == field)
        values = [getattr(stage, field) for stage in among if getattr(stage, field) is not None]
        return values[-1] if values else default

    cutting = [stage for stage in stages if stage.cuts_width]
    recovering = [stage for stage in stages if stage.recover_tokens]
    return Stage(
        name,
        drop_encoder=tuple(i for stage in stages for i in stage.drop_encoder),
        drop_decoder=tuple(i for stage in stages for i in stage.drop_decoder),
        **{field: last(field, stages) for field in ("embed", "heads", "mlp", "vocabulary")},
        **{field: last(field, cutting) for field in ("method", "seed")},
        recover_tokens=sum(stage.recover_tokens for stage in stages),
        recover_objective=last("recover_objective", recovering),
    )
