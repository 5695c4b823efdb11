"""One prompt with images, one answer, one reward."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import torch

from rollspan.rollout.engine import InferenceEngine
from rollspan.rollout.requests import GenerationHyperparameters, Tokenizer
from rollspan.rollout.trajectories import Trajectory
from rollspan.rollout.workflow import WorkflowTaskInput

from .images import encoded, images_in, picture
from .inputs import check_room, entry, messages_of, request, token_ids
from .rlvr import RLVRWorkflow, default_get_input_ids_fn

_PIXELS = ("pixel_values", "image_grid_thw")


class VisionRLVRWorkflow(RLVRWorkflow):
    """As `RLVRWorkflow`, with the images in `data["images"]`: one or a list, of the forms that `images.encoded` takes.

    They are sent to the engine as base64. With a Hugging Face `processor` (or the name or folder of one) the prompt's
    tokens are its own, with those that stand for an image; `data["messages"]` is then a list of messages, or a text
    that has been through the chat template. The trajectory has two keys more: `multi_modal_input`, a list with one
    mapping for the row (`pixel_values`, and `image_grid_thw` where the processor gives it; shapes are the processor's),
    and where the processor gives it `mm_token_type_ids`, [1, length] int64, 0 for the answer.
    """

    def __init__(
        self,
        reward_fn: Callable[..., Any],
        gconfig: GenerationHyperparameters,
        tokenizer: Tokenizer | str,
        processor: Any = None,
        enable_thinking: bool = False,
        get_input_ids_fn: Callable[[Any, Tokenizer, bool], Any] = default_get_input_ids_fn,
        data_extract_prompt_fn: Callable[[Mapping[str, Any]], Any] | None = None,
    ) -> None:
        super().__init__(
            reward_fn, gconfig, tokenizer, enable_thinking, get_input_ids_fn, data_extract_prompt_fn
        )
        self.processor = _loaded(processor)

    async def arun_episode(self, engine: InferenceEngine, task: WorkflowTaskInput) -> Trajectory | None:
        """One row of prompt and answer, [1, length]; None where the engine gave the answer up.

        Raises what `RLVRWorkflow` does, and ValueError, with the task's id, for an image that cannot be read;
        ImportError where Pillow is needed and missing.
        """
        images = images_in(entry(task, "images"))
        if not images:
            raise ValueError(f"{task}: 'images' is empty; expected at least one image")
        sent = await asyncio.to_thread(_each, task, images, encoded)
        if self.processor is None:
            tokens, processed = self._prompt(task), None
        else:
            processed = await asyncio.to_thread(self._processed, task, images)
            tokens = token_ids(task, processed["input_ids"][0])
        check_room(task, self.gconfig, len(tokens))
        response = await engine.agenerate(request(self.gconfig, self.tokenizer, tokens, image_data=sent))
        others = {} if processed is None else _multi_modal(processed, response.output_len)
        return await self._finished(task, tokens, response, **others)

    def _processed(self, task: WorkflowTaskInput, images: Any) -> Mapping[str, Any]:
        """What the processor makes of text and images."""
        messages = entry(task, "messages")
        text = messages if isinstance(messages, str) else self._text(messages_of(task, messages))
        pictures = _each(task, images, picture)
        try:
            return self.processor(images=pictures, text=text, padding=False, return_tensors="pt")  # type: ignore[no-any-return]
        except Exception as error:
            raise ValueError(
                f"{task}: the processor cannot do with its text and {len(pictures)} images: {type(error).__name__}: "
                f"{error}"
            ) from error

    def _text(self, messages: list[dict[str, Any]]) -> str:
        templated = self.processor if getattr(self.processor, "chat_template", None) else self.tokenizer
        return str(templated.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))


def _each(task: WorkflowTaskInput, images: Any, made: Callable[[Any], Any]) -> list[Any]:
    found = []
    for number, image in enumerate(images):
        try:
            found.append(made(image))
        except ValueError as error:
            raise ValueError(f"{task}: image {number}: {error}") from error
    return found


def _multi_modal(processed: Mapping[str, Any], output_len: int) -> dict[str, Any]:
    """The trajectory's keys of what the processor gave."""
    others: dict[str, Any] = {
        "multi_modal_input": [{key: processed[key] for key in _PIXELS if key in processed}]
    }
    if "mm_token_type_ids" in processed:
        kinds = torch.as_tensor(processed["mm_token_type_ids"], dtype=torch.int64)[:1]
        others["mm_token_type_ids"] = torch.nn.functional.pad(kinds, (0, output_len))
    return others


def _loaded(processor: Any) -> Any:
    if not isinstance(processor, str):
        return processor
    try:
        from transformers import AutoProcessor  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise ImportError(
            f"the processor {processor!r} is given by name, which needs transformers: pip install transformers"
        ) from error
    return AutoProcessor.from_pretrained(processor)  # type: ignore[no-untyped-call]
