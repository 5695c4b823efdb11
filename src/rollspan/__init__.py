"""One trace and one record for every rollout of a reinforcement-learning run, on OpenTelemetry."""

__version__ = "0.1.0"
