"""Inference engines over HTTP: `SGLangEngine`, `VLLMEngine`, and `OpenAIEngine` for any endpoint of that kind.

| file | what is in it |
|---|---|
| `remote` | what they have in common: versions, pauses, weight updates |
| `generating` | one generation, from its request to its answer, over cuts, pauses and lost servers |
| `updates` | tells every server what has a side effect, once |
| `protocol` | `Dialect`: what a kind of server is asked, and how its answers are read |
| `servers` | which server, and who is left out |
| `gate` | holds generations back while there is a pause |
| `http`, `sse` | connections, errors and what may be repeated; streamed answers |
| `sglang`, `vllm`, `openai` | the dialects |
"""

from .openai import OpenAIEngine
from .remote import RemoteEngine
from .sglang import SGLangEngine
from .vllm import VLLMEngine

__all__ = ["OpenAIEngine", "RemoteEngine", "SGLangEngine", "VLLMEngine"]
