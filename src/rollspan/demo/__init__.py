"""A tiny reinforcement-learning program, real in every part, that `rollspan demo` runs.

A recurrent policy learns to sort digits. `server` serves it over HTTP as SGLang would, `rollouts` samples it in
groups, `trainer` improves it and pushes the new weights. It uses rollspan as any program would: read `trainer`
first, then `rollouts`, then `workflow`.
"""
