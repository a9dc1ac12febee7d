import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openba_jax.checkpoints.layout import Layout, contiguous

CASES = [
    ("(heads part kv) embed", ("embed", "heads", "kv"), 3),
    ("(heads part kv)", ("heads", "kv"), 2),
    ("embed (heads kv)", ("heads", "kv", "embed"), 1),
    ("(part mlp) embed", ("embed", "mlp"), 2),
    ("embed mlp", ("mlp", "embed"), 1),
    ("vocab embed", ("embed", "vocab"), 1),
    ("embed", ("embed",), 1),
]
size = st.integers(1, 70)


@settings(deadline=None, max_examples=40)
@given(st.sampled_from(CASES), size, st.integers(1, 5), st.integers(1, 6), size, size)
def test_unpack_and_pack_are_inverse(case, embed, heads, kv, mlp, vocab):
    text, axes, parts = case
    layout = Layout.parse(text)
    sizes = {"embed": embed, "heads": heads, "kv": kv, "mlp": mlp, "vocab": vocab}
    shape = layout.shape(sizes, parts)
    theirs = np.arange(np.prod(shape), dtype=np.int32).reshape(shape)
    ours = layout.unpack(theirs, axes, sizes, parts)
    assert [array.shape for array in ours] == [tuple(sizes[name] for name in axes)] * parts
    np.testing.assert_array_equal(layout.pack(ours, axes), theirs)
    copies = [contiguous(array) for array in ours]
    assert all(copy.flags.c_contiguous for copy in copies)
    np.testing.assert_array_equal(contiguous(layout.pack(copies, axes)), theirs)


def test_fused_projection_is_interleaved_by_head():
    heads, kv, embed = 2, 3, 5
    layout = Layout.parse("(heads part kv) embed")
    theirs = np.arange(heads * 3 * kv * embed).reshape(-1, embed)
    sizes = {"heads": heads, "kv": kv, "embed": embed}
    query, key, value = layout.unpack(theirs, ("embed", "heads", "kv"), sizes, 3)
    # docs/original.md#attention: for each head kv rows of q, then of k, then of v.
    for head in range(heads):
        first = head * 3 * kv
        np.testing.assert_array_equal(query[:, head].T, theirs[first : first + kv])
        np.testing.assert_array_equal(key[:, head].T, theirs[first + kv : first + 2 * kv])
        np.testing.assert_array_equal(value[:, head].T, theirs[first + 2 * kv : first + 3 * kv])


@pytest.mark.parametrize(
    ("text", "dim"),
    [
        ("(heads part kv) embed", 0),
        ("embed (heads kv)", 1),
        ("embed mlp", 1),
        ("vocab", 0),
        ("embed", None),
    ],
)
def test_tensor_parallelism_follows_from_the_names(text, dim):
    assert Layout.parse(text).sharded_dim == dim
