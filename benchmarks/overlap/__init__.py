"""Parts of `benchmarks/async_overlap.py`: a simulated fleet, and runs with a real server."""
