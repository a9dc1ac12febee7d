"""Prompts as a seqio task, so that `t5x.infer` answers what `openba_jax.infer` answers."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import seqio
import tensorflow as tf

from openba_jax.cli.gin_values import several
from openba_jax.inference.prompts import FRAMES, read_prompts
from openba_jax.seqio.vocabulary import OpenBAVocabulary


def prompts_task(
    vocabulary: OpenBAVocabulary,
    prompts: Sequence[str] = (),
    input_file: str = "",
    max_encoder_length: int = 1024,
    parse_special: bool = False,
) -> str:
    """Registers a task over prompts, framed as `openba_jax.inference.prompts` says.

    Args:
      vocabulary: the model's.
      prompts: texts.
      input_file: more of them: JSON lines with `inputs`, or plain lines.
      max_encoder_length: longest prompt, frame included; T5X would cut longer ones off.
      parse_special: strings of special tokens in prompts become these tokens.

    Returns:
      The name of the task, which has the split `test`. T5X takes seqio's tasks by name only, and
      does not infer again what its folder has under that name, so that other prompts have another.

    Raises:
      UserError: there is no prompt, one is too long or no valid Unicode, or the file cannot be
        read.
    """
    texts, places = read_prompts(several(prompts), input_file)
    # A task knows no model. Those of the family t5 alone have vocabularies of this kind.
    made = FRAMES["end" if vocabulary.vocabulary.kind == "t5" else "sentinel"]
    frame = made(vocabulary.vocabulary, max_encoder_length, parse_special=parse_special)
    rows = [frame.prompt(text, place) for text, place in zip(texts, places, strict=True)]

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
