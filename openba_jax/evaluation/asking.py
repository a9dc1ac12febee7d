"""A model that questions are put to, with what stands around them and how long they may be."""

from __future__ import annotations

import dataclasses
import functools

from openba_jax.data.vocabularies.base import Vocabulary
from openba_jax.inference.prompts import PLACE, PromptFrame, frame_of
from openba_jax.models.base import Model, Params

ANY_LENGTH = 2**31
"""Longer than any text."""


@dataclasses.dataclass(frozen=True)
class AskedModel:
    """What benchmarks ask; to be used within `sharding.use_mesh`.

    Attributes:
      model: the model.
      params: its parameters, on the mesh.
      vocabulary: its tokenizer.
      encoder_length: the longest prompt in tokens, frame included.
      decoder_length: the longest answer in tokens, frame included.
      batch_size: questions at once; what the mesh divides.
      parse_special: strings of special tokens in questions become these tokens.
      template: what stands around prompts, `{}` being the prompt, see `PromptFrame`.
    """

    model: Model
    params: Params
    vocabulary: Vocabulary
    encoder_length: int
    decoder_length: int
    batch_size: int = 32
    parse_special: bool = False
    template: str = PLACE

    @functools.cached_property
    def frame(self) -> PromptFrame:
        """What makes ids of prompts and answers: the frame that the model reads.

        Raises:
          UserError: the template has not one place for the prompt, or the lengths have no room.
        """
        return frame_of(self.model, self.vocabulary)(
            self.vocabulary,
            self.encoder_length,
            self.decoder_length,
            parse_special=self.parse_special,
            template=self.template,
        )

    @functools.cached_property
    def unlimited(self) -> AskedModel:
        """The same for prompts and answers of any length, which the caller cuts."""
        return dataclasses.replace(self, encoder_length=ANY_LENGTH, decoder_length=ANY_LENGTH)
