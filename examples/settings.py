"""What the examples share: settings from a YAML file and from the command line, and a clean end at Ctrl-C."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

try:
    import yaml
except ImportError as error:
    raise SystemExit("the examples need further packages: pip install '.[examples]'") from error

_Settings = TypeVar("_Settings")

_WORDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a finite number",
    str: "a text",
    list[str]: "a list of texts",
    NoneType: "null",
}
"""The types that a setting may have, or several of them as a union; and how they are called."""


@dataclass(frozen=True)
class Bound:
    """What a number must be besides: how that is said behind its type, and whether it holds."""

    said: str
    holds: Callable[[float], bool]


Positive = Annotated[int, Bound(" of at least 1", lambda value: value >= 1)]
NotNegative = Annotated[int, Bound(" of at least 0", lambda value: value >= 0)]
AboveZero = Annotated[float, Bound(" above 0", lambda value: value > 0)]


class SettingsError(ValueError):
    """A setting is missing, unknown or of a wrong type; the message says which, where, and what was expected."""


def run(
    main: Callable[[_Settings], None], kind: type[_Settings], program: str, options: Sequence[str] = ()
) -> None:
    """Call `main` with the settings that the command line asks for, and end as a program does.

    `kind` is a dataclass; the file of settings is the one beside `program`, unless `--config` names another. The
    settings named in `options` can be given as `--name value` too. `main` may raise SettingsError itself.
    """
    preset = Path(program).with_suffix(".yaml")
    parser = argparse.ArgumentParser(
        description=sys.modules[main.__module__].__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", type=Path, default=preset, help=f"file of settings ({preset.name})")
    for name in options:
        parser.add_argument(f"--{name}", help=f"the same as {name}=...")
    parser.add_argument("changes", nargs="*", metavar="key=value", help="settings other than in the file")
    arguments = parser.parse_intermixed_args()
    named = [f"{name}={value}" for name in options if (value := getattr(arguments, name)) is not None]
    try:
        main(load(kind, arguments.config, [*arguments.changes, *named]))
    except SettingsError as error:
        parser.exit(2, f"{error}\n")
    except KeyboardInterrupt:
        parser.exit(130, "Interrupted.\n")


def load(kind: type[_Settings], path: Path, changes: Sequence[str] = ()) -> _Settings:
    """The dataclass `kind`, filled from a YAML file, and for `changes` (each `key=value`) with these values instead.

    Raises SettingsError unless the file and the changes have exactly its fields, each of its type.
    """
    values = {key: (value, str(path)) for key, value in _read(path).items()}
    for change in changes:
        key, equals, text = change.partition("=")
        if not equals:
            raise SettingsError(f"{change!r} on the command line is no setting; expected key=value")
        values[key] = _parsed(text, f"{change!r} on the command line"), "the command line"
    types = get_type_hints(kind, include_extras=True)
    names = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    for key, (value, where) in values.items():
        if key not in names:
            raise SettingsError(
                f"{key} is {value!r} in {where}: there is no such setting; expected {', '.join(names)}"
            )
    missing = [name for name in names if name not in values]
    if missing:
        raise SettingsError(f"{', '.join(missing)} missing in {path}; expected every setting")
    return kind(**{name: _checked(name, *values[name], types[name]) for name in names})


def _read(path: Path) -> dict[Any, Any]:
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} cannot be read: {error}") from error
    found = _parsed(text, str(path))
    if not isinstance(found, dict):
        raise SettingsError(f"{path} holds a {type(found).__name__}; expected lines of key: value")
    return found


def _parsed(text: str, where: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise SettingsError(f"{where} is no YAML: {error}") from error


def _checked(name: str, value: Any, where: str, wanted: Any) -> Any:
    """The value as one of the types that are wanted, within their bound."""
    if get_origin(wanted) is Annotated:
        number, bound = get_args(wanted)
        found = _checked(name, value, where, number)
        if not bound.holds(found):
            raise SettingsError(f"{name} is {value!r} in {where}; expected {_WORDS[number]}{bound.said}")
        return found
    kinds = get_args(wanted) if isinstance(wanted, UnionType) else (wanted,)
    for kind in kinds:
        if type(value) is kind:
            if kind is not float or math.isfinite(value):
                return value
        elif kind is float and type(value) in (int, str):  # YAML 1.1 takes 8e-3 for a text
            try:
                number = float(value)
            except (ValueError, OverflowError):
                continue
            if math.isfinite(number):
                return number
        elif kind == list[str] and type(value) is list and all(type(item) is str for item in value):
            return value
    expected = " or ".join(_WORDS[kind] for kind in kinds)
    raise SettingsError(f"{name} is {value!r} in {where}; expected {expected}")
