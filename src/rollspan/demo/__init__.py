"""A tiny reinforcement-learning program, real in every part, that `rollspan demo` runs.

A recurrent policy learns to sort digits. `server` serves it over HTTP as SGLang would, `workflow` is one rollout,
`trainer` the training on top of `rollspan.rollout`. Read `trainer` first, then `workflow`, then `run`.
"""
