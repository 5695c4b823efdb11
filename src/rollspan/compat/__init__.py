"""Other tracers' interfaces, on rollspan."""
