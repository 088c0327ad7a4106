"""Parts of `benchmarks/stage2_gain.py`: data, starting checkpoint, arms, runs, tables."""
