"""Any value becomes one defined form, or nothing; nothing raises and nothing is lost unseen."""

from __future__ import annotations

import decimal
import enum
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rollspan import describe, health
from rollspan.attributes import MAX_ATTRIBUTES, clean, clean_into, fit
from rollspan.plain import put


class Colour(enum.Enum):
    RED = "red"


class Hostile:
    def __str__(self) -> str:
        raise RuntimeError("no")

    def __repr__(self) -> str:
        return "hostile"


class HostileList(list):  # type: ignore[type-arg]
    def __iter__(self) -> Any:
        raise RuntimeError("no")


RECURSIVE: list[Any] = []
RECURSIVE.append({"again": RECURSIVE})


@pytest.mark.parametrize(
    ("value", "form"),
    ids=range(31),
    argvalues=[
        (True, True),
        (1, 1),
        (1.5, 1.5),
        ("x", "x"),
        (None, None),
        (math.nan, "NaN"),
        (math.inf, "Infinity"),
        (-math.inf, "-Infinity"),
        (2**63 - 1, 2**63 - 1),
        (2**63, str(2**63)),
        (-(2**70), str(-(2**70))),
        (10**5000, hex(10**5000)),
        (b"text", "text"),
        (b"\xff\x00", "/wA="),
        ("\ud800", "\\ud800"),
        ([1, 2], [1, 2]),
        ((1, 2.5), [1.0, 2.5]),
        ([1, "a", None], ["1", "a", "null"]),
        ([1.0, math.nan], ["1.0", "NaN"]),
        ({3, 1, 2}, [1, 2, 3]),
        ({"b": 1, 2: [math.nan]}, '{"b":1,"2":["NaN"]}'),
        ([[1], [2]], "[[1],[2]]"),
        (RECURSIVE, '[{"again":"<recursion>"}]'),
        (Colour.RED, "red"),
        (np.float32(0.5), 0.5),
        (np.int64(7), 7),
        (np.zeros((2, 3)), "<numpy.ndarray shape=(2, 3) dtype=float64>"),
        (decimal.Decimal("1.5"), "1.5"),
        (Path("a/b"), "a/b"),
        (Hostile(), "<unprintable tests.test_attributes.Hostile>"),
        (HostileList([1]), "<unprintable tests.test_attributes.HostileList>"),
    ],
)
def test_one_form_for_each_value(value: Any, form: Any) -> None:
    """Each kind of value has the form that the specification gives it."""
    cleaned = clean(value)
    if isinstance(form, str) and "unprintable" in form:
        assert str(cleaned).startswith("<unprintable ")
        return
    assert cleaned == form
    assert type(cleaned) is type(form)


def test_tensors_are_described_and_never_read() -> None:
    """A tensor's value could block on its device: only shape and dtype are kept."""
    torch = pytest.importorskip("torch", reason="needs the extra rollspan[demo]")
    assert clean(torch.zeros(2, 3)) == "<torch.Tensor shape=(2, 3) dtype=torch.float32>"


def test_long_values_are_cut_and_counted() -> None:
    """Text is cut to the limit in bytes, between characters, and the cut is counted."""
    cut = clean("ä" * 20000, 100)
    assert isinstance(cut, str)
    assert len(cut.encode()) <= 100
    assert cut.endswith("...")
    assert len(clean(list(range(10000)), 800)) == 100  # type: ignore[arg-type]
    assert health.counters()["attributes.cut"] == 2


def test_a_span_keeps_so_many_attributes() -> None:
    """Attributes beyond the limit are left out and counted; known ones can still change."""
    target: dict[str, Any] = {}
    clean_into(target, {f"k{i}": i for i in range(MAX_ATTRIBUTES + 5)}, 100)
    clean_into(target, {"k0": "new"}, 100)
    assert len(target) == MAX_ATTRIBUTES
    assert target["k0"] == "new"
    assert health.counters()["attributes.dropped"] == 5


def test_odd_keys_get_a_name() -> None:
    """Keys that are no text, or empty, still name an attribute."""
    target: dict[str, Any] = {}
    clean_into(target, {1: "a", "": "b", None: "c", ("x",): "d", "\ud800": "e"}, 100)
    assert set(target.values()) == {"a", "c", "d", "e"} or len(target) >= 3
    assert all(isinstance(k, str) and k for k in target)
    orjson.dumps(target)


_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters())
    | st.binary()
    | st.builds(Hostile)
    | st.just(RECURSIVE),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=5)
        | st.frozensets(st.integers(), max_size=4)
    ),
    max_leaves=20,
)


@settings(max_examples=300, deadline=None)
@given(_VALUES, st.integers(16, 500))
def test_whatever_comes_fits_json_and_otlp(value: Any, limit: int) -> None:
    """Every cleaned value is a scalar or a list of one scalar type, JSON can say it, and cleaning again keeps it."""
    cleaned = clean(value, limit)
    if cleaned is None:
        return
    assert orjson.loads(orjson.dumps(cleaned)) == cleaned
    items = cleaned if isinstance(cleaned, list) else [cleaned]
    assert len({type(i) for i in items}) <= 1
    for item in items:
        assert type(item) in (bool, int, float, str)
        assert not isinstance(item, float) or math.isfinite(item)
        assert not isinstance(item, int) or -(2**63) <= item < 2**63
    if not (isinstance(cleaned, str) and cleaned.endswith("...")):
        assert clean(cleaned, limit) == cleaned


class Limits(NamedTuple):
    """What settings say of attributes."""

    attribute_max_bytes: int
    capture_content: bool


_WORDS = st.sampled_from(
    [
        "model",
        "input_tokens",
        "score",
        "weight_version",
        "finish_reasons",
        "continuation",
        "segments",
        "prompt",
        "arguments",
        "task_id",
        "tool",
        "mine",
    ]
) | st.sampled_from(["gen_ai.input.messages", "", "ä", "x" * 300, "\ud800"])
_GIVEN = st.sampled_from(
    [1, True, 0.5, 2.0, "1", "text", "long " * 30, math.nan, -math.inf, 1 << 70, [1, 2], None, {"a": 1}]
)


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from([describe.SUBMISSION, "generate", "toolcall", "reward", "execution"]),
    st.dictionaries(_WORDS, _GIVEN, max_size=6),
    st.booleans(),
)
def test_the_short_way_comes_to_the_same_as_the_long_one(
    phase: str | None, words: dict[str, Any], content: bool
) -> None:
    """What is put at once, known words or words seen before, is what describing and then cleaning gives."""
    expected: dict[str, Any] = {}
    something = {name: value for name, value in words.items() if value is not None}
    clean_into(expected, describe.given_attributes(phase, something, content=content), 100)
    for _ in range(2):
        target: dict[str, Any] = {}
        put(target, phase, words, Limits(100, content))
        read = describe.described(phase, fit(target, 100))
        assert {k: (v, type(v)) for k, v in read.items()} == {k: (v, type(v)) for k, v in expected.items()}


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from([describe.SUBMISSION, "generate", "toolcall", "reward", "execution"]),
    st.lists(
        st.tuples(
            st.sampled_from(
                [
                    *("prompt", "prompts", "completion", "completions", "messages", "Prompt", b"prompt"),
                    *("gen_ai.input.messages", "gen_ai.output.messages", "gen_ai.system_instructions"),
                    *("gen_ai.tool.call.arguments", "gen_ai.tool.call.result", "gen_ai.tool.definitions"),
                    *("gen_ai.prompt", "gen_ai.completion.0.content", "llm.prompts", "input.value"),
                    *("arguments", "result"),
                ]
            ),
            st.sampled_from(["SECRET", ["SECRET"], {"role": "SECRET"}, ValueError("SECRET"), ("SECRET", 1)]),
        ),
        max_size=5,
    ),
    st.sampled_from(
        [ValueError("SECRET"), [KeyError("SECRET")], {"error": OSError("SECRET")}, {RuntimeError("SECRET")}]
    ),
)
def test_content_is_put_nowhere(phase: str | None, words: list[tuple[Any, Any]], failure: Any) -> None:
    """By whatever word, on whatever phase, in whatever form: no content unless asked for; of errors their class."""
    if phase not in ("generate", "toolcall"):  # there it is anything
        words = [(word, value) for word, value in words if word != "result"]
    for content in (True, False):  # nothing is learned from where it was allowed
        target: dict[str, Any] = {}
        for word, value in words:
            put(target, phase, {word: value}, Limits(100, content))
        put(target, phase, {**dict(words), "failure": failure}, Limits(100, content))
    assert "SECRET" not in repr(target)
    assert "Error" in str(target["failure"])


def test_put_keeps_within_the_number_of_attributes() -> None:
    """However attributes come, in crowds or one after the other, a span keeps so many."""
    crowd: dict[str, Any] = {}
    put(crowd, "generate", {f"k{i}": i for i in range(MAX_ATTRIBUTES + 5)}, Limits(100, False))
    assert len(crowd) == MAX_ATTRIBUTES
    single: dict[str, Any] = {}
    for i in range(MAX_ATTRIBUTES + 5):
        put(single, "generate", {f"k{i}": i}, Limits(100, False))
    put(single, "generate", {"weight_version": 3, "k0": "new"}, Limits(100, False))
    assert len(single) == MAX_ATTRIBUTES
    assert single["k0"] == "new"
