"""SGLang's own protocol."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rollspan.rollout.requests import ModelRequest

from .http import RefusedError
from .protocol import Call, Dialect, Part, Piece, whole_number
from .remote import RemoteEngine
from .servers import Balance


class SGLangDialect(Dialect):
    """`/generate` with token ids, and what a trainer tells the server."""

    provider = "sglang"
    info = Call("/get_model_info", method="GET")
    pausing = Call("/pause_generation", {"mode": "abort"})
    resuming = Call("/continue_generation")

    def check(self, request: ModelRequest) -> None:
        """Token ids, and no messages."""
        if request.messages is not None:
            raise ValueError("messages were given; SGLangEngine takes input_ids: use OpenAIEngine for chats")
        if not request.input_ids:
            raise ValueError("input_ids is empty; expected at least one token id")

    def generation(self, part: Part) -> Call:
        """`/generate`."""
        gconfig = part.request.gconfig
        params: dict[str, Any] = {
            "max_new_tokens": part.most,
            "min_new_tokens": part.least,
            "temperature": part.temperature,
            "top_p": gconfig.top_p,
            "stop_token_ids": list(gconfig.stop_token_ids),
            "ignore_eos": gconfig.ignore_eos,
            "skip_special_tokens": gconfig.skip_special_tokens,
        }
        if gconfig.top_k is not None:
            params["top_k"] = gconfig.top_k
        if gconfig.stop:
            params["stop"] = list(gconfig.stop)
        if gconfig.frequency_penalty:
            params["frequency_penalty"] = gconfig.frequency_penalty
        body: dict[str, Any] = {
            "rid": part.rid,
            "input_ids": part.input_ids,
            "sampling_params": params,
            "return_logprob": True,
            "stream": part.stream,
        }
        if part.request.image_data:
            body["image_data"] = part.request.image_data
        return Call("/generate", body)

    def read(self, answer: Mapping[str, Any], piece: Piece) -> None:
        """An answer."""
        self.read_event(answer, piece)

    def read_event(self, event: Mapping[str, Any], piece: Piece) -> None:
        """An event: it tells all so far, with `--stream-output` what is new alone."""
        meta = event["meta_info"]
        reason = meta["finish_reason"]
        if reason is not None:
            if reason["type"] == "abort" and isinstance(reason.get("status_code"), int):
                raise RefusedError(reason["status_code"], str(reason.get("message", "")))
            piece.finish_reason = reason["type"]
        count = meta.get("completion_tokens") or 0
        pairs = meta["output_token_logprobs"] if count else []  # none where it was cut off before it began
        tokens, logprobs = [pair[1] for pair in pairs], [pair[0] for pair in pairs]
        if len(tokens) == count:
            piece.tokens, piece.logprobs, piece.text = tokens, logprobs, event.get("text") or ""
        else:
            piece.tokens += tokens
            piece.logprobs += logprobs
            piece.text += event.get("text") or ""
        piece.prompt_tokens = meta.get("prompt_tokens")
        piece.cached_tokens = meta.get("cached_tokens")
        version = meta.get("weight_version")
        piece.weight_version = whole_number(version)
        if version is not None and piece.weight_version is None:
            piece.other_weights = str(version)

    def aborting(self, rid: str) -> Call:
        """`/abort_request`."""
        return Call("/abort_request", {"rid": rid})

    def weights(self, weights: bytes | str | Path, version: int) -> Call:
        """Bytes, or a path that the servers can read."""
        common = {"weight_version": str(version), "abort_all_requests": True}
        if isinstance(weights, bytes):
            encoded = [base64.b64encode(weights).decode()]
            return Call("/update_weights_from_tensor", {"serialized_named_tensors": encoded, **common})
        if isinstance(weights, (str, Path)):
            return Call("/update_weights_from_disk", {"model_path": str(weights), **common})
        raise ValueError(
            f"weights is a {type(weights).__name__}; expected bytes, or a path that the servers read"
        )

    def version_in(self, info: Mapping[str, Any]) -> str | None:
        """`weight_version`."""
        found = info.get("weight_version")
        return None if found is None else str(found)


class SGLangEngine(RemoteEngine):
    """Servers of SGLang. Arguments as for `RemoteEngine`.

    Weights: bytes go to `/update_weights_from_tensor` as they are, in base64, as its one element (so of a server
    without tensor parallelism); a path, which the servers must be able to read, to `/update_weights_from_disk`.

    `stream` is off unless asked for: a server sends all tokens so far with every event, which for long answers is
    far more than the answer, unless it was started with `--stream-output`.
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
        stream: bool = False,
        api_key: str | None = None,
        trust_env: bool = False,
    ) -> None:
        super().__init__(
            addresses,
            SGLangDialect(),
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
