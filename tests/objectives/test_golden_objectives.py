"""Samples against those of the original code: the same ids from the same masks and seeds."""

import json
from pathlib import Path

import numpy as np
import pytest

from openba_jax.data.store.token_store import TokenStore
from openba_jax.objectives import counter_random, original_noise, ul2
from openba_jax.objectives.denoising import corrupt
from openba_jax.objectives.instruction import Instruction
from openba_jax.objectives.special_ids import OpenBAIds
from openba_jax.objectives.token_rows import TokenRows

GOLDEN = json.loads((Path(__file__).parent / "golden" / "short_cases.json").read_text())
DENOISERS = list(ul2.DENOISERS.values())
IDS = OpenBAIds(GOLDEN["piece_count"])


def padded(ids, length):
    ids = np.maximum(np.asarray(ids), 0)  # The original pads labels with -1.
    return np.pad(ids, (0, length - len(ids)))


def check(denoiser, case, tokens, mask, text_enc, labels):
    """One case: the mask from the seed, and the ids from the mask."""
    rng = np.random.default_rng(case["seed"])
    if case["denoiser"] is not None:
        one_hot = np.eye(len(DENOISERS))[case["denoiser"] - 1]
        assert original_noise.choose(rng, len(DENOISERS), one_hot) == case["denoiser"] - 1
    if denoiser.mean_span is None:
        rng = np.random.default_rng(case["seed"])
    groups = TokenRows.of([tokens]).cut(denoiser.max_tokens)
    drawn = original_noise.mask(denoiser, groups.ids.shape[1], rng)
    np.testing.assert_array_equal(drawn, np.asarray(mask, bool))
    widths = len(text_enc) + 5, len(labels) + 3
    sample = corrupt(groups, drawn[None], denoiser.prefix_id(IDS), IDS, *widths)
    np.testing.assert_array_equal(sample["inputs"][0], padded(text_enc, widths[0]))
    np.testing.assert_array_equal(sample["targets"][0], padded(labels, widths[1]))


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: case["name"])
def test_short_denoising_cases(case):
    denoiser = DENOISERS[case["denoiser"] - 1]
    check(denoiser, case, case["tokens"], case["mask"], case["text_enc"], case["labels"])


def test_all_denoising_cases(golden_dir):
    cases = json.loads((golden_dir("ul2") / "ul2_cases.json").read_text())["cases"]
    arrays = np.load(golden_dir("ul2") / "ul2_cases.npz")
    for case in cases:
        name = case["name"]
        denoiser = ul2.SPAN_CORRUPTION
        if case["denoiser"] is not None:
            denoiser = DENOISERS[case["denoiser"] - 1]
        fields = ("tokens", "mask", "unpadded.text_enc", "unpadded.labels")
        check(denoiser, case, *(arrays[f"{name}.{field}"] for field in fields))
    assert len(cases) == 51


def test_draws_of_denoisers(golden_dir):
    draws = json.loads((golden_dir("ul2") / "ul2_cases.json").read_text())["draws"]
    for draw in draws.values():
        for seed, expected in enumerate(draw["denoisers"], draw["first_seed"]):
            rng = np.random.default_rng(seed)
            assert original_noise.choose(rng, 7, draw["current_prop"]) == expected - 1


def test_whole_dataset_of_the_original(golden_dir):
    """Every item of the original's dataset class over a store, from its seeds."""
    facts = json.loads((golden_dir("dataset") / "samples.json").read_text())["ul2"]
    arrays = np.load(golden_dir("dataset") / "samples.npz")
    store = TokenStore(golden_dir("indexed", "merged.bin") / "merged")
    ids = OpenBAIds(760)
    for item, task in enumerate(facts["task_of_item"]):
        index = arrays["ul2.index_mapping"][item]
        if task is None:
            sample = Instruction()(
                store.read("instructions", np.array([index]), "source"),
                store.read("instructions", np.array([index]), "target"),
                ids,
                facts["enc"],
                facts["dec"],
            )
        else:
            rng = np.random.default_rng(facts["seed"] + item)
            assert original_noise.choose(rng, 7) == task - 1
            denoiser = DENOISERS[task - 1]
            if denoiser.mean_span is None:
                rng = np.random.default_rng(facts["seed"] + item)
            groups = store.read("text", np.array([index]))
            mask = original_noise.mask(denoiser, groups.ids.shape[1], rng)[None]
            prefix = denoiser.prefix_id(ids)
            sample = corrupt(groups, mask, prefix, ids, facts["enc"], facts["dec"])
        labels = np.maximum(arrays[f"ul2.{item}.labels"], 0)
        np.testing.assert_array_equal(sample["inputs"][0], arrays[f"ul2.{item}.text_enc"])
        np.testing.assert_array_equal(sample["targets"][0], labels)
    assert item == facts["length"] - 1


@pytest.mark.parametrize("case", GOLDEN["multitask"], ids=lambda case: case["name"])
def test_instruction_cases(case):
    sample = Instruction()(
        TokenRows.of([case["src"]]),
        TokenRows.of([case["tgt"]]),
        IDS,
        case["encoder_length"],
        case["decoder_length"],
    )
    labels = np.array(case["labels"])
    np.testing.assert_array_equal(sample["inputs"][0], case["text_enc"])
    np.testing.assert_array_equal(sample["targets"][0], np.maximum(labels, 0))
    # Decoder inputs as `loader.as_batch` makes them; the original's go one further than its labels.
    shifted = np.pad(sample["targets"][0][:-1], (1, 0))
    np.testing.assert_array_equal(shifted, case["text_dec"])
    phantom = np.array(case["loss_mask"]) - (labels >= 0)
    assert phantom.sum() in (0, 1)


@pytest.mark.parametrize("number", range(1, 8))
def test_noise_is_distributed_as_in_the_original(number):
    """2,000 samples of each: exact where nothing varies, else within 4 standard errors."""
    expected = GOLDEN["stats"][str(number)]
    count, length = expected["samples"], expected["length"]
    lengths = np.full(count, length)
    mask = DENOISERS[number - 1].mask(lengths, length, counter_random.key(7, np.arange(count)))
    edges = np.diff(np.pad(mask, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    rows, starts = np.nonzero(edges == 1)
    longest = np.zeros(count)
    np.maximum.at(longest, rows, np.nonzero(edges == -1)[1] - starts)
    spans = np.bincount(rows, minlength=count)
    assert (spans.min(), spans.max()) == (expected["min_spans"], expected["max_spans"])
    for name, values in {
        "mean_noise_fraction": mask.mean(axis=1),
        "mean_longest_span": longest,
        "mean_noise_tokens_in_first_half": mask[:, : length // 2].sum(axis=1),
    }.items():
        error = np.sqrt(2 / count) * values.std()  # Both sides are sampled.
        assert abs(values.mean() - expected[name]) <= 4 * error + 1e-9, name
