"""Runs an AReaL program with rollspan's module in the place of AReaL's tracer: python installed.py PROGRAM ARGUMENTS."""

from __future__ import annotations

import runpy
import sys

import rollspan.compat.areal

if __name__ == "__main__":
    rollspan.compat.areal.install()
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")
