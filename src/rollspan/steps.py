"""A trainer's step: a trace of its own, to which the sessions link that it submitted and consumed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import health, semconv, threads
from .attributes import clean
from .work import Work

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

    from .machinery import Machinery

_TALLIES = {semconv.LINK_DISPATCH: semconv.STEP_DISPATCHED, semconv.LINK_CONSUME: semconv.STEP_CONSUMED}


class Step(Work):
    """Carries counts instead of links to its sessions: a span keeps 128 links, a step has thousands."""

    __slots__ = ("_counts", "_profile", "number")

    root_name = semconv.STEP_NAME

    def __init__(
        self, runtime: Machinery, number: Any, attributes: dict[str, Any], tracer: Tracer | None
    ) -> None:
        self.number = clean(number)
        if type(self.number) is not int:
            health.warn_once(
                f"api.step_number.{type(number).__name__}",
                "rollspan: step(%r), of type %s: expected an int, such as 12; sessions name this one, but neither the "
                "timeline nor ROLLSPAN_PROFILE_STEPS takes it for a step",
                self.number,
                type(number).__name__,
            )
        self._counts: dict[str, int] = {}
        self._profile: Any = None  # before anybody else can see it, and end it
        super().__init__(
            runtime, tracer, {semconv.STEP: self.number, **threads.here.about}, attributes, runtime.steps
        )
        if runtime.settings.profile_steps:
            self._profile = runtime.profile(self.number)

    def __repr__(self) -> str:
        return f"<rollspan step {self.number}>"

    def tally(self, link: str) -> None:
        """One more session links to this step."""
        if not self.ended:
            self._counts[link] = self._counts.get(link, 0) + 1

    def finish(self, exc: BaseException | None = None) -> None:
        """End the step, and then its profile, whose writing is none of its time."""
        super().finish(exc)
        profile, self._profile = self._profile, None
        if profile is not None:
            profile.__exit__(None, None, None)

    def _sums(self) -> dict[str, Any]:
        return {key: self._counts.get(link, 0) for link, key in _TALLIES.items()}
