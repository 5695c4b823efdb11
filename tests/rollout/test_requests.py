"""How sampling is asked for: what makes no sense is refused before any server sees it."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest

from rollspan.rollout.requests import GenerationHyperparameters

WHOLE = "a whole number of at least "


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"n_samples": 0}, f"n_samples is 0; expected {WHOLE}1"),
        ({"n_samples": True}, f"n_samples is True; expected {WHOLE}1"),
        ({"max_new_tokens": 1.5}, f"max_new_tokens is 1.5; expected {WHOLE}1"),
        ({"min_new_tokens": -1}, f"min_new_tokens is -1; expected {WHOLE}0"),
        (
            {"min_new_tokens": 10, "max_new_tokens": 5},
            "min_new_tokens is 10; expected at most max_new_tokens, which is 5",
        ),
        ({"max_tokens": 0}, f"max_tokens is 0; expected {WHOLE}1, or None"),
        ({"max_tokens": "a"}, f"max_tokens is 'a'; expected {WHOLE}1, or None"),
        ({"top_k": 0}, f"top_k is 0; expected {WHOLE}1, or None"),
        ({"top_k": -1}, f"top_k is -1; expected {WHOLE}1, or None"),
        ({"top_k": "a"}, f"top_k is 'a'; expected {WHOLE}1, or None"),
        ({"top_k": True}, f"top_k is True; expected {WHOLE}1, or None"),
        ({"temperature": "a"}, "temperature is 'a'; expected a finite number of at least 0"),
        ({"temperature": -0.1}, "temperature is -0.1; expected a finite number of at least 0"),
        ({"temperature": True}, "temperature is True; expected a finite number of at least 0"),
        ({"temperature": math.nan}, "temperature is nan; expected a finite number of at least 0"),
        ({"temperature": math.inf}, "temperature is inf; expected a finite number of at least 0"),
        ({"top_p": "a"}, "top_p is 'a'; expected a number above 0 and at most 1"),
        ({"top_p": 0}, "top_p is 0; expected a number above 0 and at most 1"),
        ({"top_p": None}, "top_p is None; expected a number above 0 and at most 1"),
        ({"frequency_penalty": "a"}, "frequency_penalty is 'a'; expected a finite number"),
        ({"frequency_penalty": math.nan}, "frequency_penalty is nan; expected a finite number"),
        ({"greedy": "yes"}, "greedy is 'yes'; expected True or False"),
        ({"ignore_eos": 1}, "ignore_eos is 1; expected True or False"),
        ({"skip_special_tokens": None}, "skip_special_tokens is None; expected True or False"),
        ({"stop_token_ids": 5}, "stop_token_ids is 5; expected a list of token ids"),
        ({"stop_token_ids": ["a"]}, "stop_token_ids is ['a']; expected a list of token ids"),
        ({"stop_token_ids": [True]}, "stop_token_ids is [True]; expected a list of token ids"),
        ({"stop_token_ids": "a"}, "stop_token_ids is 'a'; expected a list of token ids"),
        ({"stop": [1]}, "stop is [1]; expected a list of texts"),
        ({"stop": "a"}, "stop is 'a'; expected a list of texts"),
        ({"stop": 1}, "stop is 1; expected a list of texts"),
    ],
)
def test_sampling_that_makes_no_sense_is_refused(given: dict[str, Any], said: str) -> None:
    """The message names the field, its value, and what was expected; a change is looked at too."""
    with pytest.raises(ValueError, match=f"^{re.escape(said)}"):
        GenerationHyperparameters(**given)
    with pytest.raises(ValueError, match=f"^{re.escape(said)}"):
        GenerationHyperparameters().new(**given)


def test_sampling_that_makes_sense_is_taken() -> None:
    """Every field at the edge of what it may be; lists may be tuples."""
    made = GenerationHyperparameters(
        n_samples=1,
        max_new_tokens=3,
        min_new_tokens=3,
        max_tokens=1,
        greedy=True,
        top_p=1,
        top_k=1,
        temperature=0,
        stop_token_ids=(0, 7),
        stop=("a", "b"),
        frequency_penalty=-2,
    )
    assert made.new(top_k=None, max_tokens=None, stop=None, stop_token_ids=[]).top_k is None
