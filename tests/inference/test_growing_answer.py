"""An answer in pieces: together they are the whole, and none shows too much."""

from __future__ import annotations

import pytest

from openba_jax.data.vocabularies.base import Vocabulary
from openba_jax.errors import UserError
from openba_jax.inference.decoding import NOT_FINITE
from openba_jax.inference.growing_answer import GrowingAnswer
from openba_jax.inference.stop_strings import stop_strings


def _pieces(answer: GrowingAnswer, ids: list[int]) -> list[str]:
    pieces = []
    for token in ids:
        pieces.append(answer.add(token))
        if answer.finish:
            break
    return pieces


@pytest.mark.parametrize("text", ["what is water", "金 is gold", "a  b 🙂🙂 metal?"])
def test_pieces_make_the_whole_and_no_half_characters(vocabulary: Vocabulary, text: str) -> None:
    ids = [vocabulary.sentinel(0), *vocabulary.encode(text), vocabulary.eos_id]
    answer = GrowingAnswer(vocabulary, 100)
    pieces = _pieces(answer, ids)
    assert "".join(pieces) == answer.text == vocabulary.decode(ids, skip_special_tokens=True)
    assert len([piece for piece in pieces if piece]) > 2
    assert not any("\ufffd" in piece for piece in pieces)
    assert (answer.finish, answer.token_count) == ("stop", len(ids))


def test_an_answer_ends_at_its_length_even_within_a_character(vocabulary: Vocabulary) -> None:
    ids = vocabulary.encode("金")
    answer = GrowingAnswer(vocabulary, len(ids) - 1)
    assert "".join(_pieces(answer, ids)) == answer.text == vocabulary.decode(ids[:-1])
    assert answer.finish == "length"


def test_stop_strings_end_it_and_are_never_shown(vocabulary: Vocabulary) -> None:
    ids = vocabulary.encode("what is water and gold and metal")
    answer = GrowingAnswer(vocabulary, 100, stop_strings(["and g"]))
    pieces = _pieces(answer, ids)
    assert "".join(pieces) == answer.text == "what is water "
    assert answer.finish == "stop"
    # What only looks like the beginning of one is shown in the end.
    answer = GrowingAnswer(vocabulary, 100, stop_strings(["metallic"]))
    assert "".join(_pieces(answer, [*ids, vocabulary.eos_id])).endswith("metal")


def test_special_tokens_are_kept_where_they_are_wanted(vocabulary: Vocabulary) -> None:
    ids = [vocabulary.sentinel(0), *vocabulary.encode("gold"), vocabulary.sentinel(1)]
    answer = GrowingAnswer(vocabulary, 100, keep_special=True)
    _pieces(answer, [*ids, vocabulary.eos_id])
    assert answer.text == "gold<extra_id_1>"


def test_logits_that_are_not_finite_are_no_answer(vocabulary: Vocabulary) -> None:
    with pytest.raises(UserError, match="not finite"):
        GrowingAnswer(vocabulary, 3).add(NOT_FINITE)
