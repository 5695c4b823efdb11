"""`rollspan version`: rollspan's version and those of what it runs on."""

from __future__ import annotations

import json
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Final

import click

from rollspan import __version__, config, native

PACKAGES: Final = (
    "opentelemetry-api",
    "opentelemetry-sdk",
    "opentelemetry-exporter-otlp",
    "opentelemetry-instrumentation",
    "orjson",
    "click",
    "rich",
    "torch",
    "httpx",
    "ray",
)


def versions() -> dict[str, str | None]:
    """Versions by name, rollspan's and Python's first; None where a package is not installed."""
    found: dict[str, str | None] = {
        "rollspan": __version__,
        "parts in C": _parts_in_c(),
        "python": platform.python_version(),
    }
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def _parts_in_c() -> str:
    if not native.is_built():
        return "not built: Python does the same, at a higher price"
    return "built" if config.resolve().settings.native else "built, and left out by ROLLSPAN_NATIVE"


@click.command(name="version")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def command(as_json: bool) -> None:
    """Print the versions of rollspan and of what it runs on."""
    found = versions()
    if as_json:
        click.echo(json.dumps(found))
        return
    width = max(map(len, found))
    for name, number in found.items():
        click.echo(f"{name:{width}}  {number or 'not installed'}")
