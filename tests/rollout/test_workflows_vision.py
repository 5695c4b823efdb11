"""Images: in every form they reach the server, which decodes them and answers by what it sees."""

from __future__ import annotations

import base64
import io
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.needs import need

try:
    import numpy  # noqa: F401 - Hugging Face's processors need it
    import torch
    import transformers
    from PIL import Image
except ModuleNotFoundError as missing:
    need(False, f"{missing.name} is not installed")

from rollspan.rollout.requests import GenerationHyperparameters
from rollspan.rollout.trajectories import check, concat_padded
from rollspan.rollout.workflow import WorkflowTaskInput
from rollspan.rollout.workflows import VisionRLVRWorkflow
from rollspan.rollout.workflows.images import encoded
from tests.rollout.chats import tokenizer

GCONFIG = GenerationHyperparameters(max_new_tokens=20)


async def is_bright(prompt: str, completions: str, *args: Any, **data: Any) -> float:
    """1 for the answer `bright`."""
    return float(completions == "bright")


def image(colour: str, mode: str = "RGB") -> Image.Image:
    """A small one of one colour."""
    return Image.new("RGB", (28, 28), colour).convert(mode)


def file_of(picture: Image.Image, kind: str = "PNG") -> bytes:
    """The bytes of its file."""
    buffer = io.BytesIO()
    picture.save(buffer, format=kind)
    return buffer.getvalue()


def task(images: Any, content: Any = "?") -> WorkflowTaskInput:
    """A task with images."""
    return WorkflowTaskInput(
        {"messages": [{"role": "user", "content": content}], "images": images}, task_id="t-1"
    )


@pytest.mark.parametrize(
    "form", ["picture", "bytes", "jpeg", "webp", "path", "text", "url", "base64", "cmyk"]
)
@pytest.mark.parametrize("colour", ["white", "black"])
async def test_the_server_sees_an_image_in_every_form(
    engine: Any, tmp_path: Path, form: str, colour: str
) -> None:
    """A PIL image, bytes of several formats, a path, a data: URL or base64: the answer is of what is in it."""
    path = tmp_path / "image.png"
    path.write_bytes(file_of(image(colour)))
    png = base64.b64encode(path.read_bytes()).decode()
    forms = {
        "picture": image(colour),
        "bytes": path.read_bytes(),
        "jpeg": file_of(image(colour), "JPEG"),
        "webp": file_of(image(colour), "WEBP"),
        "path": path,
        "text": str(path),
        "url": f"data:image/png;base64,{png}",
        "base64": png,
        "cmyk": image(colour, "CMYK"),
    }
    workflow = VisionRLVRWorkflow(is_bright, GCONFIG, tokenizer())
    trajectory = await workflow.arun_episode(engine, task([forms[form]]))
    assert trajectory is not None
    check(trajectory)
    assert trajectory["rewards"].tolist() == [float(colour == "white")]


def test_png_and_jpeg_stay_as_they_are_and_need_no_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of a format that servers read is sent byte for byte; for any other the missing package is named."""
    jpeg, webp = file_of(image("red"), "JPEG"), file_of(image("red"), "WEBP")
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert base64.b64decode(encoded(jpeg)) == jpeg
    with pytest.raises(ImportError, match="pip install pillow"):
        encoded(webp)


@pytest.mark.parametrize(
    ("images", "said"),
    [
        ([], "'images' is empty"),
        ("https://example.com/x.png", r"image 0: it is an http\(s\) URL"),
        ("/no/such/file.png", "image 0: it is a text that is neither"),
        ([Path("/no/such/file.png")], "image 0: its file cannot be read"),
        (["data:image/png,x"], "image 0: it is a data: URL without base64"),
        ([b"no image"], "image 0: it cannot be read as an image"),
        ([3], "image 0: it is a int"),
    ],
)
async def test_an_image_that_cannot_be_read_is_told(engine: Any, images: Any, said: str) -> None:
    """A ValueError names the task, which image, and what is wrong with it."""
    workflow = VisionRLVRWorkflow(is_bright, GCONFIG, tokenizer())
    with pytest.raises(ValueError, match=f"task 't-1': {said}"):
        await workflow.arun_episode(engine, task(images))


async def test_a_task_without_images_is_told(engine: Any) -> None:
    """Data without images is refused with its keys."""
    workflow = VisionRLVRWorkflow(is_bright, GCONFIG, tokenizer())
    with pytest.raises(ValueError, match="no 'images'; it has"):
        await workflow.arun_episode(
            engine, WorkflowTaskInput({"messages": [{"role": "user", "content": "x"}]})
        )


def llava() -> Any:
    """A real processor of Hugging Face's: four tokens an image."""
    size = {"height": 28, "width": 28}
    return transformers.LlavaProcessor(
        transformers.CLIPImageProcessor(size=size, crop_size=size),
        tokenizer(),
        patch_size=14,
        vision_feature_select_strategy="full",
        image_token="<|image|>",
        num_additional_image_tokens=0,
    )


class WithGrid:
    """A processor that gives what Qwen2-VL's does, by its own image processor."""

    def __init__(self) -> None:
        self._images = transformers.Qwen2VLImageProcessor(min_pixels=56 * 56, max_pixels=56 * 56)
        self._tokenizer = tokenizer()

    def __call__(self, images: list[Any], text: str, padding: bool, return_tensors: str) -> dict[str, Any]:
        made = dict(self._images(images, return_tensors=return_tensors))
        tokens = int(made["image_grid_thw"].prod()) // 4
        ids = self._tokenizer.encode(text.replace("<|image|>", "<|image|>" * tokens))
        image_id = self._tokenizer.convert_tokens_to_ids("<|image|>")
        kinds = torch.tensor([[int(token == image_id) for token in ids]])
        return {"input_ids": torch.tensor([ids]), "mm_token_type_ids": kinds, **made}


async def test_a_processors_tokens_and_pixels_are_the_trajectorys(engine: Any) -> None:
    """With a processor the prompt has its tokens for the image, and its pixels go along, an item for each row."""
    workflow = VisionRLVRWorkflow(is_bright, GCONFIG, tokenizer(), llava())
    trajectories = [
        await workflow.arun_episode(engine, task(image(colour), "<|image|>?"))
        for colour in ("white", "black")
    ]
    assert None not in trajectories
    batch = concat_padded([trajectory for trajectory in trajectories if trajectory is not None])
    check(batch, rows=2)
    assert tokenizer().decode(batch["input_ids"][0]).startswith("<|user|>" + "<|image|>" * 4 + "?<|end|>")
    assert batch["rewards"].tolist() == [1.0, 0.0]
    white, black = batch["multi_modal_input"]
    assert white["pixel_values"].shape == (1, 3, 28, 28)
    assert (white["pixel_values"] > black["pixel_values"]).all()


async def test_a_processors_grid_and_kinds_of_tokens_go_along(engine: Any) -> None:
    """`image_grid_thw` goes along with the pixels, and `mm_token_type_ids` is as long as the row, 0 for the answer."""
    workflow = VisionRLVRWorkflow(is_bright, GCONFIG, tokenizer(), WithGrid())
    trajectory = await workflow.arun_episode(engine, task(file_of(image("white")), "<|image|>?"))
    assert trajectory is not None
    check(trajectory)
    (inputs,) = trajectory["multi_modal_input"]
    assert inputs["image_grid_thw"].shape == (1, 3)
    kinds = trajectory["mm_token_type_ids"]
    assert kinds.shape == trajectory["input_ids"].shape
    assert (kinds[trajectory["loss_mask"].bool()] == 0).all()
    assert (kinds == 1).sum() == inputs["image_grid_thw"].prod() // 4


async def test_a_processor_that_cannot_do_with_its_input_is_told(engine: Any) -> None:
    """A text with more places for images than there are images is an error that names the task."""
    workflow = VisionRLVRWorkflow(is_bright, GCONFIG, tokenizer(), llava())
    with pytest.raises(ValueError, match="task 't-1': the processor cannot do with its text and 1 images"):
        await workflow.arun_episode(engine, task(image("white"), "<|image|><|image|>"))


async def test_messages_may_be_a_text_that_has_been_through_the_template(engine: Any) -> None:
    """As in AReaL's data sets, `messages` may be the finished text where there is a processor."""
    workflow = VisionRLVRWorkflow(is_bright, GCONFIG, tokenizer(), llava())
    data = {"messages": "<|user|><|image|><|end|><|assistant|>", "images": [image("white")]}
    trajectory = await workflow.arun_episode(engine, WorkflowTaskInput(data))
    assert trajectory is not None
    assert trajectory["rewards"].tolist() == [1.0]
