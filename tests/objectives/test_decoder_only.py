"""Samples for models without an encoder, and the rows that the layout makes of them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openba_jax.data.layouts import LAYOUTS, Part
from openba_jax.errors import UserError
from openba_jax.objectives import counter_random
from openba_jax.objectives.decoder_only import PADDING, CausalLM, Completion, PrefixLM
from openba_jax.objectives.denoising import Denoiser
from openba_jax.objectives.mixture import Mixture, Task
from openba_jax.objectives.token_rows import TokenRows

IDS: Any = SimpleNamespace(eos_id=2, bos_id=1, adds_bos=True, pad_id=0)
LAYOUT = LAYOUTS["decoder_only"]


def batch_of(objective: Any, widths: tuple[int, int], places: list[int], **read: list[Any]) -> Any:
    rows = {side: TokenRows.of(sequences) for side, sequences in read.items()}
    keys = counter_random.key(0, np.arange(len(places)))
    samples = objective.samples(rows, keys, IDS, *widths)
    return LAYOUT.packed([Part(np.array(places), samples)], max(places) + 1, widths)


def test_every_token_is_learnt_from_those_before_it_in_its_document() -> None:
    # The id 0 is a token like any other, and eos ends a document.
    batch = batch_of(CausalLM(), (4, 6), [0], source=[[1, 0, 7, 2, 1, 8, 9]])
    assert batch["decoder_input_tokens"][0, :7].tolist() == [1, 0, 7, 2, 1, 8, 9]
    assert batch["decoder_target_tokens"][0].tolist() == [0, 7, 2, 0, 8, 9, 0, 0, 0, 0]
    assert batch["decoder_loss_weights"][0].tolist() == [1, 1, 1, 0, 1, 1, 0, 0, 0, 0]
    assert batch["decoder_segment_ids"][0].tolist() == [1, 1, 1, 1, 2, 2, 2, 0, 0, 0]
    assert batch["decoder_positions"][0].tolist() == [0, 1, 2, 3, 0, 1, 2, 0, 0, 0]
    whole = batch_of(CausalLM(document_masks=False), (4, 6), [0], source=[[1, 0, 7, 2, 1, 8, 9]])
    assert whole["decoder_target_tokens"][0].tolist() == [0, 7, 2, 1, 8, 9, 0, 0, 0, 0]
    assert whole["decoder_segment_ids"][0].tolist() == [1] * 7 + [0] * 3


def test_loss_is_taken_on_answers() -> None:
    batch = batch_of(Completion(), (4, 4), [0], source=[[5, 0]], target=[[0, 6, 2]])
    assert batch["decoder_input_tokens"][0, :6].tolist() == [1, 5, 0, 0, 6, 2]
    assert batch["decoder_target_tokens"][0].tolist() == [0, 0, 0, 6, 2, 0, 0, 0]
    assert batch["decoder_loss_weights"][0].tolist() == [0, 0, 1, 1, 1, 0, 0, 0]
    assert batch["decoder_causal_attention"][0].tolist() == [1, 1, 1, 0, 0, 0, 0, 0]


def test_samples_that_share_a_row_do_not_see_each_other() -> None:
    pairs = {"source": [[5], [6, 7], [8]], "target": [[9, 2], [4, 2], [3, 2]]}
    batch = batch_of(Completion(), (6, 5), [0, 0, 1], **pairs)
    assert batch["decoder_input_tokens"][0, :9].tolist() == [1, 5, 9, 2, 1, 6, 7, 4, 2]
    assert batch["decoder_segment_ids"][0].tolist() == [1, 1, 1, 1, 2, 2, 2, 2, 2, 0, 0]
    assert batch["decoder_positions"][0].tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 4, 0, 0]
    assert batch["decoder_loss_weights"][0].tolist() == [0, 1, 1, 0, 0, 0, 1, 1, 0, 0, 0]
    assert batch["decoder_input_tokens"][1, :4].tolist() == [1, 8, 3, 2]


@given(st.lists(st.integers(0, 90), min_size=2, max_size=16), st.integers(0, 1000))
def test_a_prefix_and_its_rest_are_the_text(text: list[int], key: int) -> None:
    rows = {"source": TokenRows.of([text])}
    keys = counter_random.key(key, np.arange(1))
    samples = PrefixLM().samples(rows, keys, IDS, 10, 12)
    inputs, targets = (
        row[row != PADDING].tolist() for row in (samples["inputs"], samples["targets"])
    )
    assert inputs + targets == text
    assert inputs
    assert targets


def test_a_decoder_and_an_encoder_decoder_do_not_share_a_mixture() -> None:
    denoiser = Denoiser(prefix=None, density=0.15, mean_span=3.0)
    tasks = ((Task("a", CausalLM()), 1.0), (Task("b", denoiser), 1.0))
    with pytest.raises(UserError, match="no model can read both"):
        Mixture("both", tasks)
    with pytest.raises(UserError, match="no room for a token"):
        Completion().limits(1, 4)
