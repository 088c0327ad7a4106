"""Does the asynchronous actor-learner keep the learner busy, and does it throw rollouts away?

A simulation with made-up durations drives the product's own queue, clock, window rule and gates through fleets of 1 to 64 learner ranks and 1 to 32 rollout
servers, rollouts that take 0.25 to 4 steps, and version windows of 0 to 4. "Free" rows are those where rollouts are not the bottleneck: between two syncs there
is time for as many rounds of the slowest rank as there are Channel B steps, with 10 % to spare, and the window is at least 1.

Without --quick, synchronous and asynchronous training with a real vLLM server follow (`overlap.real`).

    python benchmarks/async_overlap.py [--quick] [--json FILE]
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import asdict

from overlap.fleet import Outcome, Setting, simulate
from overlap.real import measure
from suite.command import benchmark_parser, show_figures, write_figures

RATIOS = (0.25, 0.5, 0.75, 1.0, 2.0, 4.0)
WINDOWS = (0, 1, 2, 4)
FLEETS = ((1, 1), (1, 32), (2, 2), (8, 4), (64, 1), (64, 32))
"""(ranks, servers)"""
FREE = 0.9


def settings(*, is_quick: bool) -> Iterator[Setting]:
    """Every step on Channel B, the hardest case; learners that wait; a sync at every step, or as rarely as a round takes."""
    for ranks, servers in FLEETS:
        for ratio in RATIOS:
            for window in WINDOWS if not is_quick or ranks < 64 else (1,):
                yield Setting(ratio=ratio, ranks=ranks, servers=servers, window=window)
                if not is_quick or ranks == 8:
                    yield Setting(ratio=ratio, ranks=ranks, servers=servers, window=window, sync_every=4)
    # Channel B now and then, and learners that do not wait: what cannot be used in time would be thrown away
    for b_ratio in (0.1, 0.3, 1.0):
        for ratio in RATIOS:
            for window in (1, 2, 4):
                yield Setting(ratio=ratio, ranks=8, servers=4, window=window, sync_every=4, b_ratio=b_ratio, waits=False)
                yield Setting(ratio=ratio, ranks=8, servers=4, window=window, sync_every=4, b_ratio=b_ratio)


def is_free(setting: Setting, outcome: Outcome) -> bool:
    """Rollouts are not the bottleneck; a step takes 1 s."""
    return setting.window >= 1 and math.floor(FREE * setting.sync_every / outcome.slowest_s) >= setting.b_ratio * setting.sync_every


def show(rows: list[tuple[Setting, Outcome]]) -> None:
    print("idle share of the learner; discarded share; mean age in versions. B: share of Channel B; S: steps between syncs; w: window; *: free")
    print(f"{'ratio':>6} {'ranks':>5} {'servers':>7} {'B':>4} {'S':>2} {'w':>2} {'waits':>5} {'load':>6} {'sync':>6} {'async':>7} {'discarded':>9} {'age':>5}")
    for setting, outcome in rows:
        waits, mark = "yes" if setting.waits else "no", " *" if is_free(setting, outcome) else ""
        print(
            f"{setting.ratio:6.2f} {setting.ranks:5} {setting.servers:7} {setting.b_ratio:4.1f} {setting.sync_every:2} {setting.window:2} {waits:>5} "
            f"{outcome.load:6.2f} {outcome.sync_idle_share:6.3f} {outcome.idle_share:7.4f} {outcome.discarded_share:9.4f} {outcome.mean_lag:5.2f}{mark}"
        )


def simulate_all(*, is_quick: bool) -> dict[str, object]:
    rows: list[tuple[Setting, Outcome]] = []
    for setting in settings(is_quick=is_quick):
        num_steps = 60 if is_quick or setting.ranks == 64 else 240
        rows.append((setting, simulate(setting, num_steps=num_steps)))
    show(rows)
    free = [(setting, outcome) for setting, outcome in rows if is_free(setting, outcome)]
    every_step = [outcome for setting, outcome in free if setting.sync_every == 1]
    return {
        "sim_num_settings": len(rows),
        "sim_num_free": len(free),
        "sim_idle_share_async": max(outcome.idle_share for _, outcome in free),
        "sim_idle_share_async_mean": sum(outcome.idle_share for _, outcome in free) / len(free),
        "sim_idle_share_sync_mean": sum(outcome.sync_idle_share for outcome in every_step) / len(every_step),
        "sim_discarded_share": max(outcome.discarded_share for _, outcome in rows),
        "sim_rows": [{**asdict(setting), **asdict(outcome)} for setting, outcome in rows],
    }


def main() -> None:
    parser = benchmark_parser(__doc__, quick="the simulation alone, with fewer settings of large fleets and fewer steps")
    parser.add_argument("--steps", type=int, default=24, help="of each run with the real server")
    args = parser.parse_args()
    start = time.perf_counter()
    figures = simulate_all(is_quick=args.quick)
    if not args.quick:
        figures |= measure(num_steps=args.steps)
    print(f"\n{time.perf_counter() - start:.0f} s")
    show_figures("async_overlap", figures)
    write_figures(figures, args.json)


if __name__ == "__main__":
    main()
