"""What the name of a phase alone says of it."""

from __future__ import annotations

from typing import Any, Final, TypeAlias

from . import describe, plain, semconv
from .attributes import fit_name
from .spandata import KIND_CLIENT, KIND_INTERNAL

Said: TypeAlias = tuple[str, int, "dict[str, Any] | None", plain.Kinds]
"""Its name on the wire, its kind, attributes that it has in any case, and those that it may have as they are given."""

_KEPT: Final = 4096

known: Final[dict[Any, Said]] = {
    # Names of waits are ours to use.
    **{wait: (f"{wait}_", KIND_INTERNAL, None, plain.kinds_of(f"{wait}_")) for wait in semconv.WAITS},
    **{
        name: (
            name,
            KIND_CLIENT if name == semconv.GENERATE else KIND_INTERNAL,
            {semconv.OPERATION_NAME: operation},
            plain.kinds_of(name),
        )
        for name, operation in describe.OPERATIONS.items()
    },
}
"""Names that were seen and found fit: they are few and come again and again."""


def said_by(name: Any) -> Said:
    """What a name says that may not be `known` yet, or no name at all. Raises TypeError for a function."""
    if callable(name):
        raise TypeError("a phase needs a name: write @rollspan.phase('reward'), not @rollspan.phase")
    fit = fit_name(name)
    said = known.get(fit)
    if said is None:
        said = (fit, KIND_INTERNAL, None, plain.kinds_of(fit))
        if len(known) < _KEPT:
            known[fit] = said
    return said
