"""vLLM's protocol: OpenAI's with token ids, and the routes of its development mode."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rollspan.rollout.requests import ModelRequest

from .openai import OpenAIDialect
from .protocol import Call, Part
from .remote import RemoteEngine
from .servers import Balance


class VLLMDialect(OpenAIDialect):
    """Everything that OpenAI's has, and more."""

    provider = "vllm"
    health = Call("/health", method="GET")
    pausing = Call("/pause?mode=abort&clear_cache=true")
    resuming = Call("/resume")
    max_tokens_of_chats = "max_tokens"

    def _check_sampling(self, request: ModelRequest) -> None:
        """It has them all."""

    def _more(self, part: Part) -> dict[str, Any]:
        gconfig = part.request.gconfig
        more: dict[str, Any] = {
            "request_id": part.rid,
            "min_tokens": part.least,
            "stop_token_ids": list(gconfig.stop_token_ids),
            "ignore_eos": gconfig.ignore_eos,
            "skip_special_tokens": gconfig.skip_special_tokens,
            "return_token_ids": True,
            "return_tokens_as_token_ids": True,  # what older ones have instead
        }
        if gconfig.top_k is not None:
            more["top_k"] = gconfig.top_k
        return more

    def weights(self, weights: bytes | str | Path, version: int) -> Call:
        """A path that the servers can read."""
        if not isinstance(weights, (str, Path)):
            raise ValueError(f"weights is a {type(weights).__name__}; expected a path that the servers read")
        return Call("/collective_rpc", {"method": "reload_weights", "kwargs": {"weights_path": str(weights)}})


class VLLMEngine(RemoteEngine):
    """Servers of vLLM. Arguments as for `RemoteEngine`; requests as for `OpenAIEngine`, with token ids in any case.

    Pauses (`/pause`, `/resume`) and weights (`/collective_rpc`) are of its development mode: start it with
    `VLLM_SERVER_DEV_MODE=1`. Weights are a path that the servers can read, which their workers load by
    `reload_weights`. It tells no weight version: tokens bear the engine's, and a server that was started anew under
    the same address cannot be told from one that has the pushed weights.
    """

    def __init__(
        self,
        addresses: str | Sequence[str],
        *,
        model: str | None = None,
        request_timeout: float = 3600.0,
        retries: int = 3,
        max_connections: int = 4096,
        balance: Balance = "round_robin",
        probe_interval: float = 5.0,
        stream: bool = True,
        api_key: str | None = None,
        trust_env: bool = False,
    ) -> None:
        super().__init__(
            addresses,
            VLLMDialect(model, {}),
            model=model,
            request_timeout=request_timeout,
            retries=retries,
            max_connections=max_connections,
            balance=balance,
            probe_interval=probe_interval,
            stream=stream,
            api_key=api_key,
            trust_env=trust_env,
        )
