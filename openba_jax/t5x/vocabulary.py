"""Model and task must speak of the same tokens."""

from __future__ import annotations

from t5x import models, utils

from openba_jax.errors import UserError


def verify_vocabularies(cfg: utils.DatasetConfig, model: models.BaseTransformerModel) -> None:
    """A `verify_matching_vocabs_fn` for `t5x.train` and `t5x.infer`.

    Raises:
      UserError: the vocabularies of task and model differ, or the model has fewer rows than tokens.
    """
    name = getattr(cfg.mixture_or_task_name, "name", cfg.mixture_or_task_name)
    for vocabulary in utils.get_vocabulary(cfg):
        if vocabulary != model.output_vocabulary:
            raise UserError(
                f"task {name} has the vocabulary {vocabulary} and the model "
                f"{model.output_vocabulary}; name with VOCABULARY the sentencepiece model that the "
                "checkpoint was trained with, and prepare the token stores with it."
            )
        tokens, rows = vocabulary.vocab_size, model.config.vocab_size
        if tokens > rows:
            raise UserError(
                f"the vocabulary of task {name} has {tokens} tokens and the model {rows} rows; "
                f"take another model size, or --gin.named_config.vocab_size for at least {tokens}."
            )
