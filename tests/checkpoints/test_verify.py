import numpy as np
import pytest

from openba_jax.errors import UserError
from openba_jax.evaluation.verify import compare, compare_logits, encode_prompt
from openba_jax.models.axes import Leaf
from openba_jax.models.registry import named_config

WO = Leaf("decoder/layers/mlp/wo/kernel", 1)


def differences(first, second):
    return {d.path: d for d in compare(first, second) if d.largest > 0}


def test_equal_models(make_checkpoint, variant):
    assert not differences(make_checkpoint(variant), make_checkpoint(variant))
    found = compare(make_checkpoint(variant), make_checkpoint(variant))
    assert [d.path for d in found] == list(make_checkpoint(variant).model.axes.paths)


def test_the_largest_difference_is_found(make_checkpoint, tiny):
    first, second = make_checkpoint(tiny), make_checkpoint(tiny)
    second.arrays[WO] = second.arrays[WO] + np.float32(0.5) * np.eye(*WO_SHAPE, dtype=np.float32)
    second.arrays[Leaf("token_embedder/embedding")][255, 3] += 2
    found = differences(first, second)
    assert {path: d.largest for path, d in found.items()} == {
        WO.path: 0.5,
        "token_embedder/embedding": 2.0,
    }
    assert found[WO.path].where == str(WO) == "decoder/layers/mlp/wo/kernel[1]"


WO_SHAPE = (256, 12)


def test_types_do_not_matter_but_are_named(make_checkpoint, tiny):
    found = compare(make_checkpoint(tiny), make_checkpoint(tiny, {"": np.float16}))
    assert all(d.largest == 0 and d.dtypes == ("float32", "float16") for d in found)


def test_nan(make_checkpoint, tiny):
    first, second = make_checkpoint(tiny), make_checkpoint(tiny)
    for source in (first, second):
        source.arrays[WO][0, 0] = np.nan
    assert not differences(first, second)
    notes = {d.path: d.note for d in compare(first, second) if d.note}  # equal, yet not hidden
    assert notes == {WO.path: "2 NaN or infinite values on both sides together"}
    second.arrays[WO][0, 0] = 1
    assert differences(first, second)[WO.path].largest == np.inf


def test_vocabularies_of_two_sizes(make_checkpoint, tiny):
    first, second = make_checkpoint(tiny), make_checkpoint(tiny.replace(vocab_size=384))
    for leaf in first.arrays:
        array = np.resize(first.arrays[leaf], second.arrays[leaf].shape)
        second.arrays[leaf] = array
    assert not differences(first, second)
    notes = {d.path: d.note for d in compare(first, second) if d.note}
    assert notes == dict.fromkeys(
        ["token_embedder/embedding", "logits_dense/bias"], "the first 256 of 256 and 384 rows"
    )


def test_parameter_on_one_side(make_checkpoint, tiny):
    first, second = make_checkpoint(tiny), make_checkpoint(tiny.replace(tie_embeddings=False))
    lone = next(d for d in compare(first, second) if d.path == "logits_dense/kernel")
    assert (lone.largest, lone.note) == (np.inf, "only in the second")


@pytest.mark.parametrize(
    ("change", "message"),
    [({"mlp_dim": 8}, "mlp is 256 and 8"), ({"decoder_layers": 1}, "decoder/layers is 2 and 1")],
)
def test_models_that_cannot_be_compared(make_checkpoint, tiny, change, message):
    with pytest.raises(UserError, match=message):
        compare(make_checkpoint(tiny), make_checkpoint(tiny.replace(**change)))


def test_logits(make_checkpoint, tiny):
    config = tiny.replace(decoder_layers=1)
    first, second = make_checkpoint(config), make_checkpoint(config)
    prompts = [[5, 6, 1], [7]]
    assert compare_logits(first, second, prompts) == [0.0, 0.0]
    second.arrays[Leaf("logits_dense/bias")] += np.float32(0.25)
    assert compare_logits(first, second, prompts) == pytest.approx([0.25, 0.25], abs=1e-5)


def test_prompts(make_checkpoint, tiny, golden_dir):
    source = make_checkpoint(tiny.replace(vocab_size=896))
    assert encode_prompt("12, 5,7", source) == [12, 5, 7]
    with pytest.raises(UserError, match="no tokenizer"):
        encode_prompt("text", source)
    with pytest.raises(UserError, match="has id 896"):
        encode_prompt("896", source)
    source.tokenizer = golden_dir("vocab") / "old.model"
    assert encode_prompt("<S>a</s>", source)[0] == 861
    decoder = make_checkpoint(named_config("tiny_llama", vocab_size=896))
    decoder.tokenizer = source.tokenizer
    with pytest.raises(UserError, match="the prompt '' has no token"):
        encode_prompt("", decoder)
