"""Workflows that can be used as they are.

| file | what is in it |
|---|---|
| `rlvr` | one prompt, one answer, one reward |
| `vision_rlvr`, `images` | the same with images |
| `multi_turn` | wrong answers get feedback |
| `multi_turn_chat`, `tools` | a chat with tools |
| `inputs` | what a task's data must be like |
| `templates` | chat templates, without tokenising twice |
| `scoring` | how reward functions are asked |
"""

from .multi_turn import MultiTurnWorkflow
from .multi_turn_chat import MultiTurnChatWorkflow
from .rlvr import RLVRWorkflow
from .vision_rlvr import VisionRLVRWorkflow

__all__ = ["MultiTurnChatWorkflow", "MultiTurnWorkflow", "RLVRWorkflow", "VisionRLVRWorkflow"]
