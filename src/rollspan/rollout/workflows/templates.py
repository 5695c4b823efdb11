"""Chat templates, used so that what was once tokens stays these tokens.

A template makes text of a whole conversation. Tokenised anew, an answer need not be the tokens that were sampled, and
training on others than these is wrong. So only what the template puts behind an answer is made into tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from rollspan.rollout.errors import RolloutError
from rollspan.rollout.requests import Tokenizer

_ANSWER: Final = "rollspan-stands-here-for-an-answer"
"""The content of an answer of which only the end is looked for."""


class ChatTemplateError(RolloutError):
    """A chat template fails, or does not go on from the tokens that there are."""


class ChatTemplate:
    """A tokenizer's template, with the same options for all its uses."""

    def __init__(self, tokenizer: Tokenizer, **options: Any) -> None:
        self._tokenizer = tokenizer
        self._options = options

    def text(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """The conversation up to where the model has to answer."""
        try:
            text = self._tokenizer.apply_chat_template(
                list(messages), tokenize=False, add_generation_prompt=True, **self._options
            )
        except Exception as error:
            raise ChatTemplateError(
                f"the chat template cannot do with {len(messages)} messages of the roles "
                f"{[message.get('role') for message in messages]}: {type(error).__name__}: {error}"
            ) from error
        return str(text)

    def tokens(self, text: str) -> list[int]:
        """Token ids of a text of the template's, which has its own special tokens."""
        return list(self._tokenizer.encode(text, add_special_tokens=False))

    def behind_answer(self, before: Sequence[Mapping[str, Any]], new: Sequence[Mapping[str, Any]]) -> str:
        """The text from the end of an answer to `before` on: its end of turn, `new`, and the next answer's beginning.

        Raises ChatTemplateError where the template leaves an answer's content out.
        """
        text = self.text([*before, {"role": "assistant", "content": _ANSWER}, *new])
        _, found, behind = text.rpartition(_ANSWER)
        if not found:
            raise ChatTemplateError(
                "the chat template leaves an earlier answer's content out, so a conversation cannot go on behind it; "
                "expected a template that keeps earlier turns as they were"
            )
        return behind

    def check_append_only(self, before: str, answer: Mapping[str, Any], behind: str, after: str) -> None:
        """Raise ChatTemplateError unless the text `after` is `before`, then an answer, then what is behind it."""
        reason = ""
        if not after.startswith(before):
            reason = "it writes what came before an answer differently once there is the answer"
        elif not after[len(before) :].endswith(behind):
            reason = "what it writes behind an answer depends on the answer"
        elif str(answer.get("content") or "").strip() not in after[len(before) : -len(behind) or None]:
            reason = "it leaves out parts of an earlier answer, such as its thoughts"
        if reason:
            raise ChatTemplateError(
                f"the chat template is not append-only: {reason}. The model would be trained on other tokens than it "
                "was given. Expected a template that keeps earlier turns as they were"
            )


def joined(answer: Sequence[int], ends: Sequence[int], behind: Sequence[int]) -> list[int]:
    """The tokens to append behind an answer: `behind`, without its first one where the model itself wrote that end."""
    wrote_the_end = bool(answer) and answer[-1] in ends and list(behind[:1]) == [answer[-1]]
    return list(behind[1:]) if wrote_the_end else list(behind)
