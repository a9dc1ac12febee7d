"""What of a request becomes inputs and targets, and what is cut off."""

from __future__ import annotations

import pytest

from openba_jax.errors import UserError
from openba_jax.harness.mapping import RequestMapping
from openba_jax.harness.settings import GenerationSettings, whole_number
from openba_jax.inference.decoding import GREEDY, Sampling
from openba_jax.models.registry import model_of, named_config


@pytest.fixture
def mapping(vocabulary):
    def make(name: str = "tiny", kind: str = "frame", max_length: int = 0, lengths=(12, 8)):
        model = model_of(named_config(name, vocab_size=vocabulary.size).with_lengths(*lengths))
        return RequestMapping(model, vocabulary, kind, max_length, parse_special=False)

    return make


def test_an_encoder_decoder_reads_the_context_in_the_frame_it_was_trained_with(
    mapping, vocabulary
) -> None:
    water, gold = vocabulary.encode("what is"), vocabulary.encode("gold")
    mark, end = vocabulary.sentinel(0), vocabulary.eos_id
    found = mapping().continuation("what is", " gold", "x")
    assert found.inputs == (vocabulary.s_id, *water, mark, end)
    assert found.targets[found.scored] == tuple(gold)
    assert found.targets == (mark, *gold, end)
    # Blanks at the end of the context count to the continuation.
    assert mapping().continuation("what is ", "gold", "x") == found
    plain = mapping(kind="plain").continuation("what is", " gold", "x")
    assert (plain.inputs, plain.targets) == (tuple(water), tuple(gold))
    assert mapping(kind="plain").continuation("", "gold", "x").inputs == (end,)


def test_a_decoder_goes_on_from_the_context(mapping, vocabulary) -> None:
    found = mapping("tiny_llama").continuation("what is", " gold", "x")
    # This vocabulary has no beginning of a text.
    assert found.inputs == tuple(vocabulary.encode("what is"))
    assert found.targets[found.scored] == tuple(vocabulary.encode("gold"))
    assert mapping("tiny_llama").continuation("", "gold", "x").inputs == (vocabulary.eos_id,)


@pytest.mark.parametrize("name", ["tiny", "tiny_llama"])
def test_long_contexts_lose_their_beginning_and_keep_their_frame(
    mapping, vocabulary, caplog, name: str
) -> None:
    context = "what is water and gold " * 5
    ids = vocabulary.encode(context.rstrip())
    found = mapping(name).continuation(context, "gold", "request 7")
    assert caplog.text.count("request 7: a context of") == 1
    if name == "tiny":
        mark, end = vocabulary.sentinel(0), vocabulary.eos_id
        assert found.inputs == (vocabulary.s_id, *ids[-9:], mark, end)
        assert len(mapping(max_length=6).continuation(context, "gold", "x").inputs) == 6
        assert mapping().prompt(context.rstrip(), 500, "x") == list(found.inputs)
    else:
        answer = len(vocabulary.encode("gold"))
        # The last token of the continuation is not read; one place is kept for a beginning.
        assert found.inputs == tuple(ids[-(20 - answer) :])
        assert len(mapping(name).prompt(context, 6, "x")) == 13
        with pytest.raises(UserError, match="leave no room for a context in 20"):
            mapping(name).prompt(context, 20, "x")


@pytest.mark.parametrize("name", ["tiny", "tiny_llama"])
@pytest.mark.parametrize("kind", ["frame", "plain"])
@pytest.mark.parametrize("length", [1, 5, 20, 21, 57, 60])
def test_windows_score_each_token_once(mapping, vocabulary, name, kind, length) -> None:
    text = " ".join(["what is water and gold"] * 30)
    ids = vocabulary.encode(text)[:length]
    each = mapping(name, kind)
    each.frame.encode = lambda text, place: ids  # Of any length, whatever the pieces are.
    windows = list(each.windows(text, "x"))
    scored = [token for w in windows for token in w.targets[w.scored]]
    assert scored == ids
    for window in windows:
        if name == "tiny":
            assert len(window.inputs) <= 12
            assert len(window.targets) <= 8
        else:
            assert len(window.inputs) + len(window.targets[window.scored]) <= 21
    if name == "tiny_llama":
        lm_eval = pytest.importorskip("lm_eval", reason="needs lm_eval")
        assert lm_eval is not None
        from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

        theirs = get_rolling_token_windows(ids, vocabulary.eos_id, 20, 1)
        for window, pair in zip(windows, theirs, strict=True):
            before, part = make_disjoint_window(pair)
            assert (list(window.inputs), list(window.targets[window.scored])) == (before, part)


def test_an_empty_text_has_no_window(mapping) -> None:
    assert list(mapping().windows("", "x")) == []


def test_what_cannot_be_scored_is_refused(mapping) -> None:
    with pytest.raises(UserError, match="x: the continuation '' has no token to score"):
        mapping().continuation("what", "", "x")
    with pytest.raises(UserError, match=r"x: a continuation of .* exceeds the 6"):
        mapping().continuation("what", " gold water and gold water", "x")
    with pytest.raises(UserError, match="mapping is 'none'; it is one of frame, plain"):
        mapping(kind="none")


def test_settings_of_generation() -> None:
    greedy = GenerationSettings.of({"until": ["\n"], "do_sample": False, "temperature": 0.7})
    assert greedy == GenerationSettings(256, greedy.stop, GREEDY)
    assert greedy.stop.strings == ("\n",)
    sampled = GenerationSettings.of({"until": "Q", "temperature": 0.7, "max_tokens": 9})
    assert (sampled.max_new_tokens, sampled.sampling) == (9, Sampling(0.7))
    chosen = GenerationSettings.of({"do_sample": True, "top_k": 3, "top_p": 0.5})
    assert chosen.sampling == Sampling(1.0, 3, 0.5)
    with pytest.raises(UserError, match="'num_beams', which openba_jax does not know"):
        GenerationSettings.of({"num_beams": 3})
    for value in (0, "many", 2.5, True):
        with pytest.raises(UserError, match=r"max_gen_toks is .*; it must be a whole number"):
            GenerationSettings.of({"max_gen_toks": value})
    assert whole_number("batch_size", "8") == 8


def test_a_decoder_begins_a_text_behind_the_beginning_if_there_is_one(
    mapping, vocabulary, monkeypatch
) -> None:
    monkeypatch.setattr(vocabulary, "bos_id", 7)
    for kind in ("frame", "plain"):
        each = mapping("tiny_llama", kind)
        assert each.continuation("", "gold", "x").inputs == (7,)
        assert next(each.windows("gold", "x")).inputs == (7,)
    assert mapping().continuation("", "gold", "x").inputs[0] == vocabulary.s_id
