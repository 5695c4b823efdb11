"""What an executor and workflows ask of an inference engine; `engines` has those that speak HTTP."""

from __future__ import annotations

from typing import Any, Protocol

from .requests import ModelRequest, ModelResponse


class InferenceEngine(Protocol):
    """Generates under versioned weights. Its coroutines run on the event loop of the executor that it serves."""

    async def agenerate(self, request: ModelRequest) -> ModelResponse:
        """Generate; what a weight update cuts off goes on under the new weights."""

    def get_version(self) -> int:
        """The version of the weights that it has now."""

    def set_version(self, version: int) -> None:
        """Say which version it has."""

    async def update_weights(self, weights: Any, version: int) -> None:
        """Push weights, with generations under way cut off before and going on after."""

    async def pause(self) -> None:
        """Cut generations off, and hold them and new ones back until `resume`."""

    async def resume(self) -> None:
        """Generations go on."""

    async def aclose(self) -> None:
        """Close connections."""
