"""What a traced rollout costs, beside other ways of tracing it: `python -m benchmarks`, see `__main__`."""
