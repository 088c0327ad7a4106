from coordexp.generation.seeds import request_seed, rollout_seed_base


def test_a_seed_depends_on_the_run_and_the_record_and_fits_a_generator() -> None:
    seeds = {request_seed(base, f"val:{line}") for base in (0, 1, 42) for line in range(200)}
    assert len(seeds) == 600
    assert request_seed(42, "val:12") == request_seed(42, "val:12")
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_the_seeds_of_a_step_follow_the_formula() -> None:
    assert rollout_seed_base(42, global_step=0) == 42
    assert rollout_seed_base(42, global_step=7) == 42 + 7 * 1000003
    assert rollout_seed_base(2**31 - 1, global_step=5000) == (2**31 - 1 + 5000 * 1000003) % 2**31
