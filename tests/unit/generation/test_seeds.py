from coordexp.generation.seeds import request_seed


def test_a_seed_depends_on_the_run_and_the_record_and_fits_a_generator() -> None:
    seeds = {request_seed(base, f"val:{line}") for base in (0, 1, 42) for line in range(200)}
    assert len(seeds) == 600
    assert request_seed(42, "val:12") == request_seed(42, "val:12")
    assert all(0 <= seed < 2**63 for seed in seeds)
