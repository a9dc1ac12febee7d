"""T5 on eight devices against one: loss, gradients, logits and answers; a program of its own."""

import jax
import jax.numpy as jnp
import numpy as np

from openba_jax.inference.decoding import generate
from openba_jax.models.registry import model_of, named_config
from openba_jax.parallel.sharding import jit_on_mesh, make_mesh, param_shardings


def compare(name):
    model = model_of(named_config(name))
    params = jax.jit(model.init)(jax.random.key(0))
    encoder, decoder = (
        jax.random.randint(jax.random.key(seed), shape, 3, 500)
        for seed, shape in ((1, (4, 8)), (2, (4, 6)))
    )
    batch = {"encoder_input_tokens": encoder, "decoder_input_tokens": decoder}

    def compute(params):
        def loss(params):
            logits = model.head(params).logits(model.hidden(params, batch))
            return jnp.mean(jax.nn.log_softmax(logits)[..., 3]), logits

        return jax.value_and_grad(loss, has_aux=True)(params)

    def answer(params):
        return generate(model, params, encoder, jax.random.key(0), max_new_tokens=4)

    mesh = make_mesh((2, 2, 2))
    shardings = param_shardings(model.logical_axes(), model.abstract_params(), mesh)
    laid = jax.device_put(params, shardings)
    kernel = laid["decoder"]["layers"]["self_attention"]["query"]["kernel"]
    assert kernel.sharding.shard_shape(kernel.shape) == (3, 16, 16)
    expected, found = jax.jit(compute)(params), jit_on_mesh(compute, mesh)(laid)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=5e-5), found, expected)
    np.testing.assert_array_equal(jit_on_mesh(answer, mesh)(laid), jax.jit(answer)(params))
    print(name)


if __name__ == "__main__":
    assert jax.device_count() == 8
    compare("tiny_t5_1_1")
