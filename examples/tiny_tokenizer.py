"""A tokenizer of a few words, made in code: Hugging Face's, with a chat template, as the ones of large models are."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import tokenizers
from transformers import PreTrainedTokenizerFast

SPECIAL: Final = ["<|pad|>", "<|end|>", "<|unknown|>", "<|user|>", "<|assistant|>", "<|tool|>", "<|image|>"]

TEMPLATE: Final = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}"
    "{% for call in m.tool_calls or [] %}<tool_call>{{ call.function | tojson }}</tool_call>{% endfor %}"
    "<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
"""A conversation, message after message; where the model has to answer the text ends with `<|assistant|>`."""


def tiny_tokenizer(words: Sequence[str]) -> PreTrainedTokenizerFast:
    """Tokens are `SPECIAL` and the words, in this order; what is no word becomes `<|unknown|>`."""
    vocabulary = {word: number for number, word in enumerate([*SPECIAL, *words])}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<|unknown|>"))
    longest_first = sorted(words, key=len, reverse=True)
    made.pre_tokenizer = tokenizers.pre_tokenizers.Split(
        tokenizers.Regex("|".join(map(re.escape, longest_first))), behavior="isolated"
    )
    made.decoder = tokenizers.decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token="<|pad|>",
        eos_token="<|end|>",
        unk_token="<|unknown|>",
        additional_special_tokens=SPECIAL[3:],
        chat_template=TEMPLATE,
        clean_up_tokenization_spaces=False,
    )
