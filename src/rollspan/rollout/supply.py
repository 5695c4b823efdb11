"""The data of `prepare_batch`: items of any iterable, epoch after epoch, and where it was."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any


class Supply:
    """Items one by one: of a list that the iterable gives (a DataLoader's batch) each; of a batch in columns each row.

    An iterable begins anew when it is exhausted, an iterator is over then. Not safe from several threads.
    """

    def __init__(self, source: Iterable[Any]) -> None:
        self._source = source
        self._epoch = 0
        self._position = 0
        """Of what it gave in this epoch, how many."""
        self._iterator: Iterator[Any] | None = None
        self._items: deque[Any] = deque()
        self._in_columns = _batches_in_columns(source)

    def next(self) -> Any:
        """The next item. Raises StopIteration where an iterator is over, ValueError where the iterable is empty."""
        while not self._items:
            if self._iterator is None:
                self._iterator = iter(self._source)
            try:
                given = next(self._iterator)
            except StopIteration:
                if self._iterator is self._source:
                    raise
                if not self._position:
                    raise ValueError(
                        "the dataloader is empty: expected at least one item in each epoch"
                    ) from None
                self._iterator, self._position = None, 0
                self._epoch += 1
                continue
            self._position += 1
            if isinstance(given, list | tuple):
                self._items.extend(given)
            elif self._in_columns and isinstance(given, Mapping):
                self._items.extend(_rows(given))
            else:
                self._items.append(given)
        return self._items.popleft()

    def state_dict(self, in_flight: list[Any]) -> dict[str, Any]:
        """Where it is; `in_flight` are items that were given and did not come to anything yet."""
        state: dict[str, Any] = {"epoch": self._epoch, "position": self._position}
        own = getattr(self._source, "state_dict", None)
        if callable(own) and self._iterator is not None:
            state["source"] = own()
        return {**state, "items": [*in_flight, *self._items]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there: first with the items that were in flight."""
        self._epoch, self._position = state["epoch"], state["position"]
        self._items = deque(state["items"])
        load = getattr(self._source, "load_state_dict", None)
        if "source" in state and callable(load):
            load(state["source"])
            self._iterator = iter(self._source)
        else:
            self._iterator = iter(self._source)
            skipped = sum(1 for _ in islice(self._iterator, self._position))
            if skipped < self._position:
                raise ValueError(
                    f"the dataloader gives {skipped} batches or items, the state is at {self._position}: "
                    "expected the data that the state was saved with"
                )


def _batches_in_columns(source: Any) -> bool:
    """Whether it is a DataLoader with torch's own way to make a batch of dictionaries: one of columns."""
    return getattr(source, "batch_size", None) is not None and (
        getattr(getattr(source, "collate_fn", None), "__name__", "") == "default_collate"
    )


def _rows(columns: Mapping[str, Any]) -> list[dict[str, Any]]:
    names, values = list(columns), list(columns.values())
    return [dict(zip(names, row, strict=True)) for row in zip(*values, strict=True)]
