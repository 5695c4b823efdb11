"""A tokenizer in which text does not tell the tokens, and a policy that says by heart what a test wants to hear."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import torch

CHARACTERS = "".join(map(chr, range(32, 127))) + "\n"
SPECIAL = ["<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>", "<|image|>"]
MERGES = [("a", "b"), ("o", "k"), ("n", "o"), ("<", "t")]
VOCABULARY = [*SPECIAL, *CHARACTERS, *(a + b for a, b in MERGES)]
END, USER, ASSISTANT = (VOCABULARY.index(name) for name in ("<|end|>", "<|user|>", "<|assistant|>"))

TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}"
    "{% for c in m.tool_calls or [] %}<tool_call>{{ c.function | tojson }}</tool_call>{% endfor %}"
    "<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def tokenizer(template: str = TEMPLATE) -> Any:
    """A real one: letters, and a few pairs of them. `a`, `b` decode to what is encoded as `ab`."""
    import tokenizers
    import transformers

    made = tokenizers.Tokenizer(
        tokenizers.models.BPE(vocab={word: n for n, word in enumerate(VOCABULARY)}, merges=MERGES)
    )
    made.decoder = tokenizers.decoders.Fuse()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made,
        eos_token="<|end|>",
        pad_token="<|pad|>",
        additional_special_tokens=SPECIAL[2:],
        chat_template=template,
        clean_up_tokenization_spaces=False,
    )


def letters(text: str) -> list[int]:
    """A text as single letters: other tokens than the tokenizer makes of it."""
    return [VOCABULARY.index(letter) for letter in text]


class Scripted(torch.nn.Module):
    """Says `scripts[letter][turn]`, and that it is done; `letter` is the first one that the user wrote.

    An image decides instead of the letter: a bright one is `w`, a dark one `k`.
    """

    hidden_size = 4  # script, turn, place in the answer, whether the user has just begun

    def __init__(self, scripts: dict[str, list[str]]) -> None:
        super().__init__()
        self.vocabulary = len(VOCABULARY)
        self._letters = list(scripts)
        self._answers = [[letters(text) for text in texts] for texts in scripts.values()]
        self.unused = torch.nn.Parameter(torch.zeros(1))

    def initial_state(self, image_data: Sequence[str]) -> torch.Tensor:
        """By the brightness of the last image."""
        from PIL import Image

        image = Image.open(io.BytesIO(base64.b64decode(image_data[-1]))).convert("L")
        letter = "w" if image.getpixel((0, 0)) > 127 else "k"
        return torch.tensor([float(self._letters.index(letter) + 1), 0, 0, 0])

    def forward(self, tokens: torch.Tensor, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Certain of every token."""
        batch, time = tokens.shape
        logits = torch.zeros(batch, time, self.vocabulary)
        states = torch.zeros(batch, time, self.hidden_size)
        for row in range(batch):
            now = [int(value) for value in state[row].tolist()]
            for step, token in enumerate(tokens[row].tolist()):
                now = self._after(now, token)
                states[row, step] = torch.tensor(now, dtype=torch.float32)
                logits[row, step, self._says(now)] = 60.0
        return logits, states

    def _after(self, now: list[int], token: int) -> list[int]:
        script, turn, place, user_began = now
        if user_began and not script and VOCABULARY[token] in self._letters:
            script = self._letters.index(VOCABULARY[token]) + 1
        if token == ASSISTANT:
            turn, place = turn + 1, 0
        else:
            place += 1
        return [script, turn, place, int(token == USER)]

    def _says(self, now: list[int]) -> int:
        script, turn, place, _ = now
        if not script or not turn:
            return END
        answers = self._answers[script - 1]
        answer = [*answers[min(turn, len(answers)) - 1], END]
        return answer[min(place, len(answer) - 1)]
