"""What a task's data must be like, and the requests that are made of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from rollspan.rollout.requests import GenerationHyperparameters, ModelRequest, Tokenizer
from rollspan.rollout.workflow import WorkflowTaskInput


def data_of(task: WorkflowTaskInput) -> Mapping[str, Any]:
    """The task's data, which has to be a mapping."""
    if not isinstance(task.data, Mapping):
        raise ValueError(
            f"{task}: its data is a {type(task.data).__name__}; expected a mapping with 'messages'"
        )
    return task.data


def messages_of(task: WorkflowTaskInput, messages: Any) -> list[dict[str, Any]]:
    """A copy of a chat's messages, which have to be one mapping or more, each with a `role`."""
    if isinstance(messages, str | Mapping) or not isinstance(messages, Sequence):
        raise ValueError(f"{task}: 'messages' is a {type(messages).__name__}; expected a list of messages")
    if not messages:
        raise ValueError(f"{task}: 'messages' is empty; expected at least one message")
    for number, message in enumerate(messages):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise ValueError(
                f"{task}: message {number} is no mapping with a 'role'; expected role and content"
            )
    return [dict(message) for message in messages]


def entry(task: WorkflowTaskInput, key: str) -> Any:
    """One entry of the task's data, which has to be there."""
    data = data_of(task)
    if key not in data:
        raise ValueError(f"{task}: its data has no {key!r}; it has {sorted(map(str, data))}")
    return data[key]


def token_ids(task: WorkflowTaskInput, found: Any) -> list[int]:
    """A prompt's token ids, of which there has to be at least one."""
    if isinstance(found, Mapping):  # what Hugging Face's tokenizers give with `return_dict`
        found = found.get("input_ids")
    tokens = found.tolist() if hasattr(found, "tolist") else found
    if not isinstance(tokens, list | tuple) or not all(type(token) is int for token in tokens):
        raise ValueError(
            f"{task}: its prompt came out as a {type(found).__name__}; expected a list of token ids"
        )
    if not tokens:
        raise ValueError(f"{task}: its prompt has no tokens; expected at least one")
    return list(tokens)


def room(gconfig: GenerationHyperparameters, length: int) -> int:
    """How many tokens may be generated behind so many; 0 or less where `max_tokens` is reached."""
    if gconfig.max_tokens is None:
        return gconfig.max_new_tokens
    return min(gconfig.max_new_tokens, gconfig.max_tokens - length)


def check_room(task: WorkflowTaskInput, gconfig: GenerationHyperparameters, length: int) -> None:
    """Raise ValueError for a prompt that leaves no room for an answer."""
    if room(gconfig, length) < 1:
        raise ValueError(
            f"{task}: its prompt has {length} tokens and max_tokens is {gconfig.max_tokens}, of prompt and answer "
            "together; expected a shorter prompt or a larger max_tokens"
        )


def request(
    gconfig: GenerationHyperparameters, tokenizer: Tokenizer, tokens: Sequence[int], **others: Any
) -> ModelRequest:
    """One answer to these tokens, within `max_tokens`."""
    most = room(gconfig, len(tokens))
    least = min(gconfig.min_new_tokens, most)
    return ModelRequest(
        input_ids=list(tokens),
        gconfig=gconfig.new(n_samples=1, max_new_tokens=most, min_new_tokens=least),
        tokenizer=tokenizer,
        **others,
    )


def check_gconfig(gconfig: Any) -> None:
    """Raise ValueError for what does not say how to sample."""
    if not isinstance(gconfig, GenerationHyperparameters):
        raise ValueError(f"gconfig is {gconfig!r}; expected GenerationHyperparameters(...)")


def loaded_tokenizer(tokenizer: Tokenizer | str) -> Tokenizer:
    """The tokenizer, or the one of that name or folder by Hugging Face's `transformers`.

    Raises ValueError for what is no tokenizer. A prompt that is made in one's own way needs no `encode` and no chat
    template, so these are not looked for.
    """
    if not isinstance(tokenizer, str):
        lacks = [name for name in ("decode", "eos_token_id", "pad_token_id") if not hasattr(tokenizer, name)]
        if lacks:
            raise ValueError(
                f"tokenizer is {tokenizer!r}; expected a tokenizer such as Hugging Face's, or the name or folder of "
                f"one. It lacks {', '.join(lacks)}"
            )
        return tokenizer
    try:
        from transformers import AutoTokenizer  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise ImportError(
            f"the tokenizer {tokenizer!r} is given by name, which needs transformers: pip install transformers"
        ) from error
    made: Any = AutoTokenizer.from_pretrained(tokenizer)
    return cast("Tokenizer", made)
