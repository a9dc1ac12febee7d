"""Tasks and mixtures by name: the one definition behind the batch loader and seqio's registry.

A task says which pairs of a token store it takes and which objective makes samples of them; a
mixture gives tasks rates. `openba_jax.data.loader` draws from a mixture itself, `tasks/` registers
the same names with seqio for T5X.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from openba_jax.errors import UserError
from openba_jax.objectives import d_ul2, o_ul2, ul2
from openba_jax.objectives.base import Objective
from openba_jax.objectives.decoder_only import CausalLM, Completion, PrefixLM
from openba_jax.objectives.denoising import Denoiser
from openba_jax.objectives.instruction import Instruction, Pairs
from openba_jax.objectives.token_rows import Kind


@dataclasses.dataclass(frozen=True)
class Task:
    """One objective and the pairs that it takes.

    Attributes:
      name: as in seqio's registry; the noise depends on it.
      objective: makes the samples.
    """

    name: str
    objective: Objective

    @property
    def kind(self) -> Kind:
        """Which pairs of a token store the task takes."""
        return self.objective.kind


@dataclasses.dataclass(frozen=True)
class Mixture:
    """Tasks and their rates.

    Attributes:
      name: as in seqio's registry.
      components: tasks with rates, not negative and not all 0; only their ratios count.
      rule: how the rates of the denoisers move at evaluations (D-UL2); None: they do not.
      by_count: text and instructions share the samples as they share the corpus, so that an epoch
        shows every pair once, as the original's do; the rates then count within a kind.
    """

    name: str
    components: tuple[tuple[Task, float], ...]
    rule: d_ul2.RateRule | None = None
    by_count: bool = False

    def __post_init__(self) -> None:
        """Checks the rates.

        Raises:
          UserError: There is no task, or a task occurs twice.
          UserError: A rate is negative or not finite, or all are 0.
          UserError: Some tasks are for an encoder and a decoder, and some for a decoder alone.
        """
        names = [task.name for task in self.tasks]
        if not names or len(set(names)) < len(names):
            raise UserError(f"mixture {self.name} needs tasks, each of them once; it has {names}.")
        if min(self.rates) < 0 or not 0 < sum(self.rates) < float("inf"):
            raise UserError(f"mixture {self.name} has rates {self.rates}; they must sum above 0.")
        if len({task.objective.layout for task in self.tasks}) > 1:
            raise UserError(
                f"mixture {self.name} has tasks for an encoder and a decoder and tasks for a "
                "decoder alone; no model can read both."
            )

    @property
    def layout(self) -> str:
        """How a model reads the samples, a name of `data.layouts.LAYOUTS`."""
        return self.tasks[0].objective.layout

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The tasks, in order."""
        return tuple(task for task, _ in self.components)

    @property
    def rates(self) -> tuple[float, ...]:
        """The rates, in the order of the tasks."""
        return tuple(rate for _, rate in self.components)

    @property
    def denoisers(self) -> tuple[Task, ...]:
        """The tasks on text, whose rates the rule moves."""
        return tuple(task for task in self.tasks if task.kind == "text")

    def initial_rates(self, counts: Mapping[Kind, int]) -> tuple[float, ...]:
        """The rates over a corpus with so many pairs of each kind."""
        if not self.by_count:
            return self.rates
        of_kind = {
            kind: sum(rate for task, rate in self.components if task.kind == kind)
            for kind in counts
        }
        return tuple(
            rate / of_kind[task.kind] * counts[task.kind] for task, rate in self.components
        )

    def moved_rates(
        self, rates: Sequence[float], losses: Mapping[str, float], targets: Mapping[str, float]
    ) -> tuple[float, ...]:
        """The rates after an evaluation; those of instructions stay as they are.

        Args:
          rates: present ones, of every task.
          losses: by the names of the denoisers.
          targets: by the names of the denoisers.

        Raises:
          UserError: The mixture has no rule.
          UserError: A loss or target is missing or not finite.
        """
        if self.rule is None:
            raise UserError(f"the rates of mixture {self.name} are fixed; use a d_ul2 mixture.")
        names = [task.name for task in self.denoisers]
        for what, values in (("loss", losses), ("target loss", targets)):
            if missing := [name for name in names if name not in values]:
                raise UserError(f"there is no {what} for {', '.join(missing)} of {self.name}.")
        present = dict(zip((task.name for task in self.tasks), rates, strict=True))
        total = sum(present[name] for name in names)
        moved = self.rule(
            [present[name] for name in names],
            [losses[name] for name in names],
            [targets[name] for name in names],
        )
        present |= {name: rate * total for name, rate in zip(names, moved, strict=True)}
        return tuple(present.values())

    def tasks_at(self, rates: Sequence[float]) -> tuple[Task, ...]:
        """The tasks as they are at some rates: noise shared with the choice depends on these."""
        if self.rule is None or not self.rule.shared_noise:
            return self.tasks
        total = sum(
            rate for task, rate in zip(self.tasks, rates, strict=True) if task.kind == "text"
        )
        tasks, below = [], 0.0
        for task, rate in zip(self.tasks, rates, strict=True):
            if isinstance(task.objective, Denoiser):
                window = (below / total, (below + rate) / total)
                task = dataclasses.replace(
                    task, objective=dataclasses.replace(task.objective, window=window)
                )
                below += rate
            tasks.append(task)
        return tuple(tasks)


_MIXTURES: dict[str, Mixture] = {}


def register(mixture: Mixture) -> Mixture:
    """Makes a mixture known by name, and each of its tasks as a mixture of its own.

    Raises:
      UserError: A name stands for another task or mixture already.
    """
    singles = [Mixture(task.name, ((task, 1.0),)) for task in mixture.tasks]
    for new in [*singles, mixture]:
        if _MIXTURES.setdefault(new.name, new) != new:
            raise UserError(f"a task or mixture {new.name} is known already; choose another name.")
    return mixture


def get_mixture(name: str) -> Mixture:
    """The mixture of a name; a task's name stands for that task alone.

    Raises:
      UserError: No task or mixture has this name.
    """
    if name not in _MIXTURES:
        raise UserError(f"no task or mixture is called {name!r}; known are {', '.join(_MIXTURES)}.")
    return _MIXTURES[name]


def mixture_names() -> list[str]:
    """All names, tasks included."""
    return list(_MIXTURES)


UL2_TASKS = tuple(Task(f"ul2_{name}", denoiser) for name, denoiser in ul2.DENOISERS.items())

UL2 = register(Mixture("ul2", tuple((task, 1.0) for task in UL2_TASKS)))
UL2_PAPER = register(
    Mixture(
        "ul2_paper",
        tuple(
            (Task("ul2_paper_s", ul2.PAPER_S), rate) if task.name == "ul2_s" else (task, rate)
            for task, rate in UL2.components
        ),
    )
)
SPAN_CORRUPTION = register(
    Mixture("span_corruption", ((Task("span_corruption", ul2.SPAN_CORRUPTION), 1.0),))
)
_D_UL2_START = tuple(zip(UL2_TASKS, d_ul2.INITIAL_RATES, strict=True))
D_UL2_CODE = register(
    Mixture("d_ul2_code", _D_UL2_START, d_ul2.RateRule(clamp=False, shared_noise=True))
)
D_UL2_PAPER = register(
    Mixture("d_ul2_paper", _D_UL2_START, d_ul2.RateRule(clamp=True, shared_noise=False))
)
_O_UL2_S = Task("o_ul2_s", o_ul2.SEQUENTIAL)
O_UL2_CODE = register(Mixture("o_ul2_code", ((_O_UL2_S, 1.0),)))
O_UL2_PAPER = register(
    Mixture("o_ul2_paper", ((_O_UL2_S, 0.8), (Task("o_ul2_mix", o_ul2.MIX), 0.2)))
)
D_UL2 = register(dataclasses.replace(D_UL2_PAPER, name="d_ul2"))
O_UL2 = register(dataclasses.replace(O_UL2_PAPER, name="o_ul2"))

FLAN = register(Mixture("flan", ((Task("flan", Instruction()), 1.0),)))

CAUSAL_LM = register(Mixture("causal_lm", ((Task("causal_lm", CausalLM()), 1.0),)))
PREFIX_LM = register(Mixture("prefix_lm", ((Task("prefix_lm", PrefixLM()), 1.0),)))
PAIRS = register(Mixture("pairs", ((Task("pairs", Pairs()), 1.0),)))
SPAN_CORRUPTION_PAIRS = register(
    Mixture("span_corruption_pairs", (*SPAN_CORRUPTION.components, *PAIRS.components))
)
COMPLETION = register(Mixture("completion", ((Task("completion", Completion()), 1.0),)))

TEXT_MIXTURES = (
    *(UL2, UL2_PAPER, SPAN_CORRUPTION),
    *(D_UL2, D_UL2_CODE, D_UL2_PAPER),
    *(O_UL2, O_UL2_CODE, O_UL2_PAPER),
)
"""The mixtures on text; each is there with instructions, too, under two further names."""


def _with_instructions(text: Mixture, instructions: Mixture) -> None:
    """Registers a mixture with half of each, and `NAME_corpus`, in the shares of the corpus."""
    components = (*text.components, (instructions.tasks[0], sum(text.rates)))
    name = f"{text.name}_{instructions.name}"
    register(dataclasses.replace(text, name=name, components=components))
    register(
        dataclasses.replace(text, name=f"{text.name}_corpus", components=components, by_count=True)
    )


for _mixture in TEXT_MIXTURES:
    _with_instructions(_mixture, FLAN)
for _mixture in (CAUSAL_LM, PREFIX_LM):
    _with_instructions(_mixture, COMPLETION)
