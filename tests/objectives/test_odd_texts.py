"""Texts that no denoiser was made for: every one gives a sample, and no token is lost."""

import collections

import numpy as np
import pytest

from openba_jax.objectives import counter_random
from openba_jax.objectives.instruction import Instruction
from openba_jax.objectives.mixture import get_mixture, mixture_names
from openba_jax.objectives.special_ids import SENTINELS, OpenBAIds
from openba_jax.objectives.token_rows import TokenRows

IDS = OpenBAIds(1000)
SENTINEL = IDS.sentinel(0)
TASKS = {
    task.name: task.objective
    for name in mixture_names()
    for task in get_mixture(name).tasks
    if task.kind == "text" and task.objective.layout == "encoder_decoder"
}
TEXTS = {
    "shorter than a span": [5, 6],
    "only eos": [IDS.eos_id] * 30,
    "only special tokens": [IDS.r_id, IDS.s_id, IDS.x_id, SENTINEL, IDS.eos_id, IDS.unk_id] * 5,
    "a literal <extra_id_0>": [5, SENTINEL, 6, 7, SENTINEL, 8, 9, 10],
    "longer than the encoder": list(np.random.default_rng(0).integers(3, 1000, 3000)),
}


def test_there_are_all_tasks():
    assert len(TASKS) == 11


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_no_token_is_lost(task, text):
    widths = 300, 300
    rows = TokenRows.of([text] * 3)
    sample = task(rows, counter_random.key(1, np.arange(3)), IDS, *widths)
    used = text[: task.fitting_length(*widths)]
    for inputs, targets in zip(sample["inputs"], sample["targets"], strict=True):
        found = collections.Counter([*inputs[inputs > 0].tolist(), *targets[targets > 0].tolist()])
        added = found - collections.Counter(used)
        assert not collections.Counter(used) - found
        # What was added: a prefix, an eos on either side, and each sentinel twice.
        prefix = task.prefix_id(IDS)
        frame = collections.Counter([IDS.eos_id, IDS.eos_id] + [prefix] * (prefix is not None))
        sentinels = added - frame
        assert not frame - added
        spans = sum(sentinels.values()) // 2
        assert sentinels == collections.Counter({IDS.sentinel(k): 2 for k in range(spans)})
        assert spans <= SENTINELS
        assert spans >= 1


@pytest.mark.parametrize("source", [[], [5, 6]])
@pytest.mark.parametrize("target", [[], [1], [7, 1]])
def test_empty_instructions(source, target):
    sample = Instruction()(TokenRows.of([source]), TokenRows.of([target]), IDS, 8, 6)
    inputs, targets = sample["inputs"][0], sample["targets"][0]
    assert inputs[inputs > 0].tolist() == [IDS.s_id, *source, SENTINEL, IDS.eos_id]
    assert targets[targets > 0].tolist() == [SENTINEL, *target]


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_one_token_has_no_noise(task):
    sample = task(TokenRows.of([[5]]), counter_random.key(1, np.arange(1)), IDS, 300, 300)
    prefix = task.prefix_id(IDS)
    inputs, targets = sample["inputs"][0], sample["targets"][0]
    assert inputs[inputs > 0].tolist() == [*[prefix] * (prefix is not None), 5, IDS.eos_id]
    assert targets[targets > 0].tolist() == [SENTINEL, IDS.eos_id]
