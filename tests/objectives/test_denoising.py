import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from openba_jax.errors import UserError
from openba_jax.objectives import counter_random, denoising, ul2
from openba_jax.objectives.denoising import Denoiser
from openba_jax.objectives.special_ids import SENTINELS, OpenBAIds
from openba_jax.objectives.token_rows import TokenRows

IDS = OpenBAIds(1000)
ALL = {**ul2.DENOISERS, "plain": ul2.SPAN_CORRUPTION}

denoisers = st.one_of(
    st.sampled_from(list(ALL.values())),
    st.builds(
        Denoiser,
        st.sampled_from(["R", "S", "X", None]),
        st.floats(0.01, 0.95),
        st.one_of(st.none(), st.floats(1, 20)),
    ),
)
texts = st.lists(st.lists(st.integers(3, 999), min_size=2, max_size=90), min_size=1, max_size=6)


def keys(seed, count):
    return counter_random.key(seed, np.arange(count))


def reassemble(inputs, targets, prefix):
    """Puts a sample together again; fails if it is not well-formed."""
    inputs, targets = list(inputs), list(targets)
    if prefix is not None:
        assert inputs.pop(0) == prefix
    parts = []
    for ids in (inputs, targets):
        end = ids.index(IDS.eos_id)
        assert not any(ids[end + 1 :])
        spans = {}
        here = spans.setdefault(None, [])
        for token in ids[:end]:
            if IDS.sentinel(99) <= token <= IDS.sentinel(0):
                here = spans.setdefault(token, [])
            else:
                here.append(token)
        parts.append(spans)
    kept, noise = parts
    assert noise.pop(None) == []
    order = [IDS.sentinel(k) for k in range(len(noise))]
    assert list(noise) == order == list(kept)[1:]
    text = kept[None]
    for sentinel in order:
        assert noise[sentinel]
        text = text + noise[sentinel] + kept[sentinel]
    assert not kept[order[-1]]  # A text ends with noise.
    return text


@settings(deadline=None, max_examples=150)
@given(denoiser=denoisers, batch=texts, seed=st.integers(0, 2**31))
def test_inputs_and_targets_hold_every_token_once(denoiser, batch, seed):
    rows = TokenRows.of(batch)
    sample = denoiser(rows, keys(seed, len(batch)), IDS, 400, 400)
    for text, inputs, targets in zip(batch, sample["inputs"], sample["targets"], strict=True):
        assert reassemble(inputs, targets, denoiser.prefix_id(IDS)) == text


@settings(deadline=None, max_examples=100)
@given(denoiser=denoisers, lengths=st.lists(st.integers(0, 120), min_size=1, max_size=8))
def test_masks_have_exactly_the_noise_and_spans_asked_for(denoiser, lengths):
    lengths = np.array(lengths)
    mask = denoiser.mask(lengths, int(lengths.max()), keys(3, len(lengths)))
    hidden, spans = denoiser.noise(lengths)
    starts = (np.diff(mask, axis=1, prepend=False).astype(int) & mask).sum(axis=1)
    np.testing.assert_array_equal(starts, spans)
    if denoiser.mean_span is not None:
        np.testing.assert_array_equal(mask.sum(axis=1), hidden)
    else:
        assert ((mask.sum(axis=1) <= hidden) & (mask.sum(axis=1) >= np.minimum(1, hidden))).all()
    some = lengths >= 2
    assert (hidden[some] >= 1).all()
    assert not mask[~some].any()
    assert mask[some, lengths[some] - 1].all()


@settings(deadline=None, max_examples=60)
@given(
    denoiser=denoisers,
    encoder_length=st.integers(6, 200),
    decoder_length=st.integers(6, 200),
    seed=st.integers(0, 1000),
)
def test_cut_texts_fit(denoiser, encoder_length, decoder_length, seed):
    longest = denoiser.fitting_length(encoder_length, decoder_length)
    rng = np.random.default_rng(seed)
    rows = TokenRows.of([rng.integers(3, 999, n) for n in rng.integers(2, 700, 5)])
    sample = denoiser(rows, keys(seed, 5), IDS, encoder_length, decoder_length)
    for text, length, inputs, targets in zip(rows.ids, rows.lengths, *sample.values(), strict=True):
        expected = list(text[: min(length, longest)])
        assert reassemble(inputs, targets, denoiser.prefix_id(IDS)) == expected


@pytest.mark.parametrize("denoiser", ALL.values(), ids=ALL)
def test_published_lengths_fit_groups_whole(denoiser):
    assert denoiser.fitting_length(570, 381) == ul2.GROUP_SIZE


def test_longer_groups_never_need_more_sentinels_than_there_are():
    unlimited = Denoiser("X", 0.5, 3)
    length = unlimited.fitting_length(3000, 3000)
    assert unlimited.noise(np.array([length]))[1][0] == SENTINELS
    assert unlimited.noise(np.array([length + 2]))[1][0] > SENTINELS


def test_too_many_spans_by_hand_are_refused():
    tokens = TokenRows.of([np.full(300, 5)])
    mask = np.arange(300)[None] % 2 == 1
    with pytest.raises(UserError, match="150 spans and there are 100 sentinels"):
        denoising.corrupt(tokens, mask, None, IDS, 400, 400)
    with pytest.raises(UserError, match="room for 100"):
        denoising.corrupt(tokens, np.arange(300)[None] > 280, None, IDS, 100, 400)


def test_no_room_at_all():
    with pytest.raises(UserError, match="no room"):
        ul2.DENOISERS["s"].fitting_length(3, 3)


def test_noise_depends_on_the_key_alone():
    """Neither the company in the batch nor its width matters."""
    texts = [np.arange(3, 3 + n) for n in (40, 100, 7)]
    together = ul2.DENOISERS["x3"](TokenRows.of(texts), keys(5, 3), IDS, 200, 200)
    for row, text in enumerate(texts):
        alone = ul2.DENOISERS["x3"](TokenRows.of([text]), keys(5, 3)[[row]], IDS, 200, 200)
        for name, values in alone.items():
            np.testing.assert_array_equal(values[0], together[name][row])


def test_cuts_are_equally_likely():
    """Of 6 tokens in 3 segments there are 10 ways."""
    count = 20_000
    three = np.full(count, 3)
    cuts = denoising.random_cuts(keys(1, count), np.full(count, 6), three, 8)
    assert not cuts[:, [0, 6, 7]].any()
    _, times = np.unique(cuts @ (1 << np.arange(8)), return_counts=True)
    assert len(times) == 10
    assert ((times - count / 10) ** 2 / (count / 10)).sum() < 30  # chi-squared, 9 degrees
