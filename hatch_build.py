"""Builds the parts in C into the wheel. Where that cannot be, it is pure Python, which does the same."""

from __future__ import annotations

import os
import platform
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from setuptools import Distribution, Extension

SOURCES = "native/*.c"
PACKAGE = "src/rollspan"
REQUIRED = "ROLLSPAN_BUILD_NATIVE"
"""1: a build without it fails; 0: it is left out. Else it is there where it can be."""


class NativeHook(BuildHookInterface[Any]):
    """For wheels, editable ones included: there it goes into the package's own folder."""

    _folder: tempfile.TemporaryDirectory[str] | None = None

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build it, and have the wheel hold it and say for which Python and machine it is."""
        wanted = os.environ.get(REQUIRED, "")
        if self.target_name != "wheel" or wanted == "0":
            return
        try:
            built = self._build()
        except Exception as error:
            if wanted == "1":
                raise
            self.app.display_warning(f"rollspan's parts in C are left out, Python does the same: {error}")
            return
        if version == "editable":
            built.replace(Path(self.root, PACKAGE, built.name))
        else:
            build_data["force_include"][str(built)] = f"rollspan/{built.name}"
        build_data["pure_python"] = False
        build_data["infer_tag"] = True

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove what only the build needed."""
        if self._folder is not None:
            self._folder.cleanup()

    def _build(self) -> Path:
        if platform.python_implementation() != "CPython" or sysconfig.get_config_var("Py_GIL_DISABLED"):
            raise RuntimeError("they are for CPython with its global lock")
        self._folder = tempfile.TemporaryDirectory(prefix="rollspan-build-")
        extension = Extension("_native", sorted(map(str, Path(self.root).glob(SOURCES))))
        command = Distribution({"ext_modules": [extension]}).get_command_obj("build_ext")
        command.build_lib = command.build_temp = self._folder.name
        command.ensure_finalized()
        command.run()
        return Path(command.get_ext_fullpath("_native"))
