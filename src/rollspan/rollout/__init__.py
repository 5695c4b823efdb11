"""A small runtime for asynchronous rollouts, traced from queue to tensor. Needs `rollspan[rollout]`.

Read `executor` first, then `workflow` and `engine`. It uses rollspan's public surface as any program would.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rollspan.stats import RolloutStats

    from .engine import InferenceEngine
    from .engines.openai import OpenAIEngine
    from .engines.sglang import SGLangEngine
    from .engines.vllm import VLLMEngine
    from .errors import EngineError, RolloutError
    from .executor import RolloutExecutor
    from .requests import GenerationHyperparameters, ModelRequest, ModelResponse, Segment
    from .reward import AsyncReward, RewardError, RewardTimeoutError
    from .staleness import StalenessManager
    from .trajectories import Trajectory, TrajectoryBuilder, concat_padded
    from .workflow import RolloutWorkflow, WorkflowTaskInput
    from .workflows.multi_turn import MultiTurnWorkflow
    from .workflows.multi_turn_chat import MultiTurnChatWorkflow
    from .workflows.rlvr import RLVRWorkflow
    from .workflows.templates import ChatTemplateError
    from .workflows.tools import ToolCall
    from .workflows.vision_rlvr import VisionRLVRWorkflow

_PLACES = {
    "AsyncReward": "reward",
    "ChatTemplateError": "workflows.templates",
    "EngineError": "errors",
    "GenerationHyperparameters": "requests",
    "InferenceEngine": "engine",
    "ModelRequest": "requests",
    "ModelResponse": "requests",
    "MultiTurnChatWorkflow": "workflows.multi_turn_chat",
    "MultiTurnWorkflow": "workflows.multi_turn",
    "OpenAIEngine": "engines.openai",
    "RLVRWorkflow": "workflows.rlvr",
    "RewardError": "reward",
    "RewardTimeoutError": "reward",
    "RolloutError": "errors",
    "RolloutExecutor": "executor",
    "RolloutStats": "rollspan.stats",
    "RolloutWorkflow": "workflow",
    "SGLangEngine": "engines.sglang",
    "Segment": "requests",
    "StalenessManager": "staleness",
    "ToolCall": "workflows.tools",
    "Trajectory": "trajectories",
    "TrajectoryBuilder": "trajectories",
    "VLLMEngine": "engines.vllm",
    "VisionRLVRWorkflow": "workflows.vision_rlvr",
    "WorkflowTaskInput": "workflow",
    "concat_padded": "trajectories",
}

__all__ = [
    "AsyncReward",
    "ChatTemplateError",
    "EngineError",
    "GenerationHyperparameters",
    "InferenceEngine",
    "ModelRequest",
    "ModelResponse",
    "MultiTurnChatWorkflow",
    "MultiTurnWorkflow",
    "OpenAIEngine",
    "RLVRWorkflow",
    "RewardError",
    "RewardTimeoutError",
    "RolloutError",
    "RolloutExecutor",
    "RolloutStats",
    "RolloutWorkflow",
    "SGLangEngine",
    "Segment",
    "StalenessManager",
    "ToolCall",
    "Trajectory",
    "TrajectoryBuilder",
    "VLLMEngine",
    "VisionRLVRWorkflow",
    "WorkflowTaskInput",
    "concat_padded",
]


def __getattr__(name: str) -> "Any":
    """Every public name is loaded when it is first asked for: torch and httpx only where they are used."""
    place = _PLACES.get(name)
    if place is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib  # noqa: PLC0415

    try:
        module = importlib.import_module(place if place.startswith("rollspan") else f".{place}", __name__)
    except ModuleNotFoundError as error:
        if error.name not in ("torch", "httpx", "numpy"):
            raise
        raise ImportError(
            f"rollspan.rollout.{name} needs {error.name}: pip install '/path/to/rollspan[rollout]'"
        ) from error
    value = getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> "list[str]":
    return sorted([*globals(), *__all__])
