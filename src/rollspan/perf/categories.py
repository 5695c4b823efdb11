"""What kind of work a scope times."""

from __future__ import annotations

from enum import Enum
from typing import Final, TypeAlias


class Category(str, Enum):
    """AReaL's categories, under its names."""

    COMPUTE = "compute"
    COMM = "comm"
    IO = "io"
    SYNC = "sync"
    SCHEDULER = "scheduler"
    INSTR = "instr"
    MISC = "misc"


CategoryLike: TypeAlias = "Category | str | None"

_SAID_BY: Final[dict[object, str]] = {
    **{category: category.value for category in Category},
    "communication": Category.COMM.value,
    "synchronization": Category.SYNC.value,
    "scheduling": Category.SCHEDULER.value,
    "instrumentation": Category.INSTR.value,
    None: Category.MISC.value,
}


def category_name(category: CategoryLike) -> str:
    """Its name on the wire. A text that is none of ours stays as it is; whatever is no text is `misc`."""
    try:
        return _SAID_BY[category]
    except (KeyError, TypeError):
        pass
    text = str(getattr(category, "value", category)).strip() if isinstance(category, str | Enum) else ""
    return _SAID_BY.get(text.lower(), text) or Category.MISC.value
