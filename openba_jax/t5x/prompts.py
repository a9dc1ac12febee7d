"""Prompts as a seqio task, so that `t5x.infer` answers what `openba_jax.infer` answers."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import seqio
import tensorflow as tf

from openba_jax.data.documents import column, read_records
from openba_jax.errors import UserError
from openba_jax.gin_values import several
from openba_jax.seqio.vocabulary import OpenBAVocabulary


def prompts_task(
    vocabulary: OpenBAVocabulary,
    prompts: Sequence[str] = (),
    input_file: str = "",
    max_encoder_length: int = 1024,
) -> str:
    """Registers a task over prompts, framed as reference §9.1 says: `<S> prompt <extra_id_0> </s>`.

    Args:
      vocabulary: the model's.
      prompts: texts.
      input_file: more of them: JSON lines with `inputs`, or plain lines.
      max_encoder_length: longest prompt, frame included; T5X would cut longer ones off.

    Returns:
      The name of the task, which has the split `test`. T5X takes seqio's tasks by name only, and
      does not infer again what its folder has under that name, so that other prompts have another.

    Raises:
      UserError: there is no prompt, one is too long, or the file cannot be read.
    """
    texts = several(prompts)
    if input_file:
        records = read_records([input_file], "inputs")
        texts += [column(record, "inputs", place) for place, record in records]
    if not texts:
        raise UserError("there is no prompt; give PROMPTS or an INPUT_FILE.")
    tokens = vocabulary.vocabulary
    rows = [
        [tokens.s_id, *tokens.encode(text), tokens.sentinel(0), tokens.eos_id] for text in texts
    ]
    for text, row in zip(texts, rows, strict=True):
        if len(row) > max_encoder_length:
            raise UserError(
                f"a prompt of {len(row) - 3} tokens exceeds the {max_encoder_length - 3} that fit "
                f"into MAX_ENCODER_LENGTH: {text[:60]!r}."
            )

    def dataset(split: str, shuffle_files: bool, seed: int | None = None) -> tf.data.Dataset:
        del split, shuffle_files, seed
        return tf.data.Dataset.from_generator(
            lambda: (
                {
                    "inputs": np.array(row, np.int32),
                    "targets": np.zeros(0, np.int32),
                    "inputs_pretokenized": text,
                }
                for row, text in zip(rows, texts, strict=True)
            ),
            output_signature={
                "inputs": tf.TensorSpec([None], tf.int32),
                "targets": tf.TensorSpec([None], tf.int32),
                "inputs_pretokenized": tf.TensorSpec([], tf.string),
            },
        )

    name = f"openba_prompts_{hashlib.sha256(repr(rows).encode()).hexdigest()[:8]}"
    if name in seqio.TaskRegistry.names():
        return name
    feature = seqio.Feature(vocabulary, add_eos=False)
    seqio.TaskRegistry.add(
        name,
        source=seqio.FunctionDataSource(dataset, splits=["test"]),
        output_features={"inputs": feature, "targets": feature},
        preprocessors=[],
        shuffle_buffer_size=None,
    )
    return name
