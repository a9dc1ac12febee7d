"""O-UL2 against the original's samples, and its mends."""

import json
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from openba_jax.errors import UserError
from openba_jax.objectives import counter_random, o_ul2, original_noise
from openba_jax.objectives.denoising import corrupt
from openba_jax.objectives.mixture import get_mixture
from openba_jax.objectives.special_ids import SENTINELS, OpenBAIds
from openba_jax.objectives.token_rows import TokenRows

GOLDEN = json.loads((Path(__file__).parent / "golden" / "o_ul2_cases.json").read_text())
IDS = OpenBAIds(GOLDEN["piece_count"])


def check(case, tokens, mask, text_enc, labels):
    """The mask from the seed, and, where there are sentinels enough, the ids from the mask."""
    tokens = TokenRows.of([tokens])
    if case["task"] == 1:
        length = tokens.ids.shape[1]
        drawn = o_ul2.SEQUENTIAL.mask(np.array([length]), length, counter_random.key(0)[None])[0]
    else:
        tokens = tokens.cut(o_ul2.MIX_TOKENS)
        rng = np.random.default_rng(case["seed"])
        rng.choice([1, 2], p=[0.0, 1.0])
        drawn = original_noise.mixed_mask(o_ul2.MIX, tokens.ids.shape[1], rng)
    np.testing.assert_array_equal(drawn, np.asarray(mask, bool))
    arguments = (tokens, drawn[None], IDS.s_id, IDS, len(text_enc), len(labels))
    if case.get("spans", 1) > SENTINELS:  # The original goes on with ordinary ids.
        with pytest.raises(UserError, match=f"{case['spans']} spans"):
            corrupt(*arguments)
        return
    sample = corrupt(*arguments)
    np.testing.assert_array_equal(sample["inputs"][0], text_enc)
    np.testing.assert_array_equal(sample["targets"][0], labels)


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: case["name"])
def test_short_cases(case):
    check(case, case["tokens"], case["mask"], case["text_enc"], case["labels"])


def test_all_cases(golden_dir):
    cases = json.loads((golden_dir("oul2") / "oul2_cases.json").read_text())["cases"]
    arrays = np.load(golden_dir("oul2") / "oul2_cases.npz")
    whole = [case for case in cases if "error" not in case]
    for case in whole:
        fields = ("tokens", "mask", "unpadded.text_enc", "unpadded.labels")
        check(case, *(arrays[f"{case['name']}.{field}"] for field in fields))
    assert len(whole) == 20


def spans_of(mask):
    """Starts and lengths of all spans, row by row, and how many each row has."""
    edges = np.diff(np.pad(mask, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    rows, starts = np.nonzero(edges == 1)
    return starts, np.nonzero(edges == -1)[1] - starts, np.bincount(rows, minlength=len(mask))


def test_mix_is_distributed_as_in_the_original():
    """2,000 samples: what the mend does not touch, within 4 standard errors."""
    expected = GOLDEN["stats"]
    count, length = expected["samples"], expected["used_length"]
    keys = counter_random.key(3, np.arange(count))
    mask = o_ul2.MIX.mask(np.full(count, length), length, keys)
    assert (mask.mean(axis=1) == 0.5).all()
    _, sizes, spans = spans_of(mask)
    last = sizes[np.cumsum(spans) - 1]
    final = expected["final_span_length"]
    # Planned uniformly in 170..255, and rounding adds at most one.
    assert abs(last.mean() - final["mean"]) <= 4 * np.sqrt(2 / count) * last.std()
    assert (last.min(), last.max()) == (final["min"], final["max"])
    # The original has up to 106 spans; here the 100 sentinels bound them.
    assert (spans.min(), spans.max()) == (expected["spans"]["min"], SENTINELS)
    others = np.delete(sizes, np.cumsum(spans) - 1)
    long = (others >= 20).mean()
    share = expected["fraction_of_other_spans_of_20_or_more"]
    assert abs(long - share) <= 4 * np.sqrt(2 * share / len(others)) + 0.002  # Fewer short ones.


@settings(deadline=None, max_examples=60)
@given(lengths=st.lists(st.integers(0, 400), min_size=1, max_size=6), seed=st.integers(0, 99))
def test_mix_hides_half_of_any_text(lengths, seed):
    lengths = np.array(lengths)
    keys = counter_random.key(seed, np.arange(len(lengths)))
    mask = o_ul2.MIX.mask(lengths, int(lengths.max()), keys)
    hidden, most_spans = o_ul2.MIX.noise(lengths)
    np.testing.assert_array_equal(mask.sum(axis=1), hidden)
    if mask.any():
        assert (spans_of(mask)[2] <= most_spans).all()
    some = lengths >= 2
    assert mask[some, lengths[some] - 1].all()
    assert not mask[:, :1].any()


def test_presets():
    code, paper = get_mixture("o_ul2_code"), get_mixture("o_ul2_paper")
    assert [(task.name, rate) for task, rate in code.components] == [("o_ul2_s", 1.0)]
    assert paper.rates == (0.8, 0.2)
    assert paper.tasks[1].objective.prefix_id(IDS) == IDS.x_id
    assert get_mixture("o_ul2").components == paper.components


def test_published_lengths_fit():
    assert o_ul2.SEQUENTIAL.fitting_length(1040, 1040) == o_ul2.GROUP_SIZE
    assert o_ul2.MIX.fitting_length(1040, 1040) == o_ul2.MIX_TOKENS
    rows = TokenRows.of([np.arange(3, 903)] * 4)
    keys = counter_random.key(1, np.arange(4))
    sample = o_ul2.SEQUENTIAL(rows, keys, IDS, 1040, 1040)
    assert ((sample["inputs"] > 0).sum(axis=1) == 453).all()
    assert ((sample["targets"] > 0).sum(axis=1) == 452).all()
