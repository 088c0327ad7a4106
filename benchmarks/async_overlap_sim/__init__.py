"""Simulation of the asynchronous actor-learner, used by `benchmarks/async_overlap.py`."""
