"""Where answers end."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openba_jax.errors import UserError
from openba_jax.inference.stop_strings import StopStrings, stop_strings


def test_cuts_at_the_first_of_several():
    stop = stop_strings(["\n\n", "Q:", "Q"])
    assert stop.cut("yes\nQ: no\n\n") == "yes\n"
    assert stop.cut("yes\n") == "yes\n"
    assert stop.find("yes") is None
    assert stop_strings(None).cut("yes") == "yes"


def test_holds_back_what_may_become_a_stop_string():
    stop = stop_strings("</s>")
    assert stop.safe_length("yes") == 3
    assert stop.safe_length("yes <") == 4
    assert stop.safe_length("yes </s") == 4
    assert stop.safe_length("yes </s>") == 4
    assert stop.safe_length("yes </b") == 7


@given(st.lists(st.text("ab", min_size=1, max_size=4), max_size=3), st.text("abc", max_size=12))
def test_what_is_shown_in_steps_is_the_answer(strings, text):
    stop, shown = stop_strings(strings), 0
    for end in range(len(text) + 1):
        safe = stop.safe_length(text[:end])
        assert safe >= shown
        shown = safe
        assert text[:safe] == stop.cut(text)[:safe]
        if stop.find(text[:end]) is not None:
            break
    assert stop.cut(text).startswith(text[:shown])
    longest = max(map(len, strings), default=1)
    assert len(stop.cut(text)) - shown < longest


@pytest.mark.parametrize("string", ["", 3])
def test_refuses_what_is_no_string(string):
    with pytest.raises(UserError, match="stop string"):
        StopStrings((string,))
