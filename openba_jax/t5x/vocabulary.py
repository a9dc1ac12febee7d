"""Model and task must speak of the same tokens."""

from __future__ import annotations

import seqio
from t5x import models, utils

from openba_jax.data.vocabularies.base import Vocabulary
from openba_jax.data.vocabularies.registry import open_vocabulary
from openba_jax.errors import UserError
from openba_jax.objectives.mixture import get_mixture
from openba_jax.t5x.model import NetworkModel


class TokenIds(seqio.PassThroughVocabulary):
    """The ids of a tokenizer that ends texts and pads rows with any id.

    Attributes:
      vocabulary: the tokenizer.
    """

    vocabulary: Vocabulary

    def __init__(self, path: str) -> None:
        """Opens the file of a tokenizer.

        Raises:
          UserError: it is missing, or no tokenizer.
        """
        self.vocabulary = open_vocabulary(path)
        super().__init__(self.vocabulary.token_count, self.vocabulary.eos_id)


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


def verify_mixture(cfg: utils.DatasetConfig, model: NetworkModel) -> None:
    """As `verify_vocabularies`, for batches of the native runner, which has no seqio vocabularies.

    That the token stores were made with the tokenizer is checked where they are opened.

    Raises:
      UserError: the mixture is for models of another kind, or the model has fewer rows than tokens.
    """
    mixture = get_mixture(cfg.mixture_or_task_name)
    if mixture.layout != model.model.layout:
        raise UserError(
            f"the mixture {mixture.name} is for models of the kind {mixture.layout!r}, and the "
            f"family {model.config.family} is of the kind {model.model.layout!r}; give another "
            "file of gin/objectives."
        )
    model.output_vocabulary.vocabulary.check_rows(model.config.vocab_size)
