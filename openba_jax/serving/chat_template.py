"""Chat templates of Hugging Face's tokenizers, rendered as `transformers` renders them.

Source: `apply_chat_template` of transformers 5 (`utils/chat_template_utils.py`): Jinja2 in a
sandbox, blocks trimmed, loop controls, `raise_exception`, `strftime_now` and `tojson` without
escapes.
"""

from __future__ import annotations

import datetime
import importlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from openba_jax.data.vocabularies.base import Vocabulary
from openba_jax.errors import UserError
from openba_jax.inference.prompts import UnusablePromptError

_ROLES = ("bos", "eos", "pad", "unk")


class ChatTemplate:
    """A template, compiled."""

    def __init__(self, template: object, vocabulary: Vocabulary) -> None:
        """Compiles a template.

        Args:
          template: its text, or what older tokenizers have, a list of `{name, template}`, of which
            `default` is taken.
          vocabulary: whose special tokens the template may name.

        Raises:
          UserError: Jinja2 is not installed, or the template is none.
        """
        try:
            jinja2 = importlib.import_module("jinja2")
            sandbox = importlib.import_module("jinja2.sandbox")
        except ImportError as error:
            raise UserError(
                "a chat template needs Jinja2; install openba_jax[serve], or give "
                "DIALOGUE = 'message'."
            ) from error
        if isinstance(template, list):
            named = {entry.get("name"): entry.get("template") for entry in template}
            template = named.get("default")
        if not isinstance(template, str):
            raise UserError("the tokenizer has no default chat template; give CHAT_TEMPLATE.")
        environment = sandbox.ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _refuse
        environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
        self._errors: tuple[type[Exception], ...] = (jinja2.TemplateError, TypeError, ValueError)
        try:
            self._template = environment.from_string(template)
        except jinja2.TemplateError as error:
            raise UserError(f"the chat template cannot be read: {error}.") from error
        self._tokens = _special_strings(vocabulary)

    def render(self, messages: Sequence[Mapping[str, str]]) -> str:
        """The text of a prompt, which ends where the answer begins.

        Args:
          messages: each with `role` and `content`.

        Raises:
          UnusablePromptError: the template refuses them.
        """
        try:
            text: str = self._template.render(
                messages=messages, add_generation_prompt=True, tools=None, **self._tokens
            )
        except self._errors as error:
            raise UnusablePromptError(f"the chat template refuses the messages: {error}") from error
        return text


class _RefusalError(ValueError):
    """What a template says against messages."""


def _refuse(message: str) -> None:
    raise _RefusalError(message)


def _to_json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _special_strings(vocabulary: Vocabulary) -> dict[str, str]:
    """`bos_token` and the like."""
    strings = {}
    for role in _ROLES:
        named = vocabulary.settings.tokenizer_config.get(f"{role}_token")
        token = named.get("content") if isinstance(named, Mapping) else named
        if not isinstance(token, str):
            token = getattr(vocabulary.settings, role)
        number = getattr(vocabulary, f"{role}_id")
        if token is None and number is not None:
            token = vocabulary.decode([number]).strip()
        if token is not None:
            strings[f"{role}_token"] = token
    return strings
