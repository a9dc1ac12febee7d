"""The golden models: every number of the original, through the table of Hugging Face names.

Tolerances are five times tighter than the golden data suggests (1e-4); padded positions, whose
values nothing reads, differ where a padded query sees other keys than in the original.
"""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from openba_jax.checkpoints.checkpoint import load_tree
from openba_jax.checkpoints.formats.huggingface import HuggingFace
from openba_jax.checkpoints.mapping import expand
from openba_jax.inference.beam_search import generate_beams
from openba_jax.inference.decoding import generate
from openba_jax.models.axes import flatten
from openba_jax.models.base import DecodingState
from openba_jax.models.openba.huggingface import OpenBAHuggingFace
from openba_jax.models.openba.network import DecoderLayer, EncoderLayer, OpenBA
from openba_jax.nn.losses import token_cross_entropy

TOLERANCE = 2e-5


def read_arrays(file):
    with np.load(file) as arrays:
        return dict(arrays)


class Golden:
    """A golden model: its files, and its configuration and parameters here."""

    def __init__(self, folder, scan_layers):
        self.folder = folder
        source = HuggingFace().open(folder)
        source.model = source.model.replace(scan_layers=scan_layers)
        self.model = source.model
        self.config = source.model.config
        self.params = load_tree(source)
        self.io = read_arrays(folder / "io.npz")
        self.encoder_real = self.io["attention_mask"] == 1
        self.decoder_real = self.io["decoder_attention_mask"] == 1

    @functools.cached_property
    def generation(self):
        return json.loads((self.folder / "generation.json").read_text())

    def apply(self, *arguments, config=None, method=None, **options):
        model = OpenBA(config or self.config)
        return jax.jit(
            lambda params: model.apply(
                {"params": params}, *arguments, enable_dropout=False, method=method, **options
            )
        )(self.params)


@pytest.fixture(scope="module", params=["a", "b", "c", "a-unrolled"])
def golden(request, golden_dir):
    name, _, unrolled = request.param.partition("-")
    return Golden(golden_dir(f"model_{name}"), not unrolled)


@pytest.fixture(scope="module", params=["a", "b", "c"])
def scanned(request, golden_dir):
    return Golden(golden_dir(f"model_{request.param}"), True)


def assert_close(actual, expected):
    # Shown by `pytest -rP tests/parity`: 1 is what the golden data asks for, 0.2 is held here.
    ratio = np.abs(actual - expected) / (1e-4 + 1e-4 * np.abs(expected))
    print(f"largest error / golden tolerance: {np.max(ratio):.3f}")
    np.testing.assert_allclose(actual, expected, rtol=TOLERANCE, atol=TOLERANCE)


def test_logits_without_masks(scanned):
    io = scanned.io
    ones = np.ones_like(io["input_ids"])
    logits = scanned.apply(io["input_ids"], io["decoder_input_ids"], encoder_segment_ids=ones)
    assert_close(logits, io["nomask_logits"])


def test_logits_and_the_states_of_every_layer(golden):
    io = golden.io
    logits, captured = golden.apply(
        io["input_ids"],
        io["decoder_input_ids"],
        encoder_segment_ids=io["attention_mask"],
        decoder_segment_ids=io["decoder_attention_mask"],
        capture_intermediates=lambda module, _: (
            isinstance(module, EncoderLayer | DecoderLayer) or module.name == "final_layer_norm"
        ),
        mutable=["intermediates"],
    )
    assert_close(logits[golden.decoder_real], io["logits"][golden.decoder_real])
    for stack, real in (("encoder", golden.encoder_real), ("decoder", golden.decoder_real)):
        states = captured["intermediates"][stack]
        if golden.config.scan_layers:
            layers = list(states["layers"]["__call__"][0][0])
        else:
            layers = [
                states[f"layers_{n}"]["__call__"][0][0]
                for n in range(getattr(golden.config, f"{stack}_layers"))
            ]
        expected = io[f"{stack}_hidden_states"]
        # The original lists embeddings, the inputs of later layers, and the final norm's output.
        ours = [*layers[:-1], states["final_layer_norm"]["__call__"][0]]
        assert len(expected) == len(ours) + 1
        for state, golden_state in zip(ours, expected[1:], strict=True):
            assert_close(state[real], golden_state[real])
        tokens = io["input_ids" if stack == "encoder" else "decoder_input_ids"]
        assert_close(golden.params["token_embedder"]["embedding"][tokens], expected[0])
    assert_close(
        captured["intermediates"]["encoder"]["final_layer_norm"]["__call__"][0][
            golden.encoder_real
        ],
        io["encoder_last_hidden_state"][golden.encoder_real],
    )


def batch_of(golden):
    io = golden.io
    labels = io["labels"]
    return {
        "encoder_input_tokens": io["input_ids"],
        "decoder_input_tokens": io["decoder_input_ids"],
        "decoder_target_tokens": np.where(labels == -100, 0, labels),
        "decoder_loss_weights": (labels != -100).astype(np.float32),
        "encoder_segment_ids": io["attention_mask"],
        "decoder_segment_ids": io["decoder_attention_mask"],
    }


def mean_loss(model, params, batch):
    hidden, head = model.hidden(params, batch), model.head(params)
    total, metrics = token_cross_entropy(hidden, head, batch)
    return total / metrics["weight_sum"]


def test_loss_and_gradients(golden):
    value, gradients = jax.jit(
        jax.value_and_grad(lambda params: mean_loss(golden.model, params, batch_of(golden)))
    )(golden.params)
    assert_close(value, golden.io["loss"])
    # Unrolled trees are stacked first: the table speaks of layers by number.
    flat = flatten(gradients)

    def of_leaf(leaf):
        if golden.config.scan_layers:
            array = flat[leaf.path]
            return np.asarray(array if leaf.layer is None else array[leaf.layer])
        return np.asarray(flat[leaf.unrolled])

    norms = json.loads((golden.folder / "info.json").read_text())["gradient_norms"]
    stored = read_arrays(golden.folder / "grads.npz")
    entries = expand(OpenBAHuggingFace.rows, golden.model.axes)
    assert {entry.theirs for entry in entries} == set(norms)
    for entry in entries:
        theirs = entry.layout.pack([of_leaf(leaf) for leaf in entry.leaves], entry.axes)
        assert np.linalg.norm(theirs) == pytest.approx(norms[entry.theirs], rel=TOLERANCE)
        if entry.theirs in stored:
            expected = stored.pop(entry.theirs)
            atol = TOLERANCE * np.abs(expected).max()
            ratio = np.abs(theirs - expected).max() / (5 * atol)
            print(f"gradient of {entry.theirs}, error / golden tolerance: {ratio:.3f}")
            np.testing.assert_allclose(theirs, expected, rtol=0, atol=atol)
    assert not stored


def test_labels_only(scanned):
    io = scanned.io
    labels = io["labels"]
    shifted = np.where(labels == -100, 0, labels)
    shifted = np.concatenate([np.zeros_like(shifted[:, :1]), shifted[:, :-1]], axis=1)
    np.testing.assert_array_equal(shifted, io["labels_only_decoder_input_ids"])
    batch = {**batch_of(scanned), "decoder_input_tokens": shifted}
    del batch["decoder_segment_ids"]
    value = jax.jit(lambda params: mean_loss(scanned.model, params, batch))(scanned.params)
    assert_close(value, io["labels_only_loss"])


def test_cached_decoding(golden):
    io = golden.io
    # Decoding masks by ids: padding is where the id is 0.
    np.testing.assert_array_equal(io["input_ids"] != 0, golden.encoder_real)
    tokens, inputs = io["labels_only_decoder_input_ids"], io["input_ids"]
    model, params = golden.model, golden.params
    cache, fixed = jax.jit(lambda: model.start_decoding(params, inputs, tokens.shape[1]))()
    step = jax.jit(
        lambda cache, last: model.decode_step(params, DecodingState(cache, fixed), inputs, last)
    )
    logits = []
    for position in range(tokens.shape[1]):
        out, cache = step(cache, tokens[:, position : position + 1])
        logits.append(np.asarray(out)[:, 0])
    assert_close(np.stack(logits, 1), io["labels_only_logits"])


def test_bfloat16(scanned):
    real = scanned.decoder_real
    expected = scanned.io["logits"][real]
    config = scanned.config.replace(dtype="bfloat16")
    logits = scanned.apply(
        scanned.io["input_ids"],
        scanned.io["decoder_input_ids"],
        encoder_segment_ids=scanned.io["attention_mask"],
        config=config,
    )
    error = np.linalg.norm(logits[real] - expected) / np.linalg.norm(expected)
    print(f"relative error in bfloat16: {error:.2e}")
    assert error < 2e-2


def generation_case(golden, key):
    """Inputs of both batches, padded and not, and the golden answers, padded to one length."""
    cases = [golden.generation["nopad"], golden.generation["pad"]]
    inputs = np.concatenate([case["input_ids"] for case in cases])
    mask = np.concatenate([case["attention_mask"] for case in cases])
    np.testing.assert_array_equal(inputs != 0, mask)
    length = 1 + golden.generation["max_new_tokens"]
    answers = [np.array(case[key]) for case in cases]
    answers = [np.pad(ids, [(0, 0), (0, length - ids.shape[1])]) for ids in answers]
    return jnp.asarray(inputs), np.concatenate(answers), length - 1


def test_greedy(golden):
    inputs, expected, new = generation_case(golden, "greedy")
    found = generate(golden.model, golden.params, inputs, jax.random.key(0), max_new_tokens=new)
    np.testing.assert_array_equal(found, expected[:, 1:])


def test_beams(golden):
    inputs, expected, new = generation_case(golden, "beam_sequences")
    search = functools.partial(
        generate_beams, golden.model, golden.params, inputs, beams=4, max_new_tokens=new
    )
    found = search()
    np.testing.assert_array_equal(found.sequences.reshape(expected.shape), expected)
    scores = [golden.generation[batch]["beam_scores"] for batch in ("nopad", "pad")]
    assert_close(found.scores.reshape(-1), np.concatenate(scores))


def test_beams_that_stop_early(scanned):
    inputs, expected, new = generation_case(scanned, "beam_lp0_early")
    found = generate_beams(
        scanned.model,
        scanned.params,
        inputs,
        beams=4,
        max_new_tokens=new,
        length_penalty=0.0,
        early_stopping=True,
    )
    np.testing.assert_array_equal(found.sequences[:, 0], expected)
