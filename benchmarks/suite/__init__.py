"""The benchmarks as one: their figures with goals, a run of all, the table of docs/benchmarks.md."""
