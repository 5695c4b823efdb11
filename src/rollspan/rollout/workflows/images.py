"""Images of a task, in whatever form they come, as base64 for an engine and as pictures for a processor."""

from __future__ import annotations

import base64
import binascii
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

_SENT_AS_THEY_ARE: Final = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")
"""How files of PNG and JPEG begin."""


def encoded(image: Any) -> str:
    """An image as base64 of a PNG or JPEG file.

    It is a PIL image, the bytes of an image's file, or a text or path: a `data:` URL, a file's path, or base64. PNG and
    JPEG stay as they are, others become PNG, which needs Pillow. Raises ValueError for what is no image, and for an
    http(s) URL, which has to be loaded before.
    """
    data = _png(image) if _is_picture(image) else _bytes(image)
    if not data.startswith(_SENT_AS_THEY_ARE):
        data = _png(_opened(data))
    return base64.b64encode(data).decode()


def picture(image: Any) -> Any:
    """The same as an RGB image of Pillow's, for a processor."""
    opened = image if _is_picture(image) else _opened(_bytes(image))
    return opened.convert("RGB")


def images_in(found: Any) -> Sequence[Any]:
    """One image or several, as several."""
    return found if isinstance(found, list | tuple) else [found]


def _is_picture(image: Any) -> bool:
    """Whether it is Pillow's, without loading that."""
    return any(kind.__module__ == "PIL.Image" and kind.__name__ == "Image" for kind in type(image).__mro__)


def _bytes(image: Any) -> bytes:
    if isinstance(image, bytes | bytearray | memoryview):
        return bytes(image)
    if isinstance(image, os.PathLike):
        return _read(Path(image))
    if not isinstance(image, str):
        raise ValueError(
            f"it is a {type(image).__name__}; expected a PIL image, bytes, a path, a data: URL or base64"
        )
    if image.startswith(("http://", "https://")):
        raise ValueError(
            "it is an http(s) URL; expected an image that is loaded already, as bytes or as a file"
        )
    if image.startswith("data:"):
        head, comma, body = image.partition(",")
        if not comma or not head.endswith(";base64"):
            raise ValueError("it is a data: URL without base64; expected data:image/png;base64,...")
        return _decoded(body)
    path = Path(image)
    return _read(path) if _is_file(path) else _decoded(image)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # too long for a path
        return False


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"its file cannot be read: {error}") from error


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("it is a text that is neither a file's path nor base64") from None


def _opened(data: bytes) -> Any:
    image_module = _pillow()
    try:
        image = image_module.open(io.BytesIO(data))
        image.load()
    except Exception as error:
        raise ValueError(f"it cannot be read as an image: {type(error).__name__}") from error
    return image


def _png(image: Any) -> bytes:
    buffer = io.BytesIO()
    try:
        image.save(buffer, format="PNG")
    except OSError:  # a mode that PNG lacks
        image.convert("RGB").save(buffer, format="PNG")
    return buffer.getvalue()


def _pillow() -> Any:
    try:
        from PIL import Image  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise ImportError("images other than PNG and JPEG files need Pillow: pip install pillow") from error
    return Image
