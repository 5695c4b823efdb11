"""Timed scopes and the timeline."""
