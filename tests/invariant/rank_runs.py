"""Started by torchrun: trains several configurations one behind the other in one process group, so that processes start once.

`rank_runs.py JOBS`: a JSON file with a list of [config file, overrides]; each run folder is written beside it as a line of `JOBS.runs`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from coordexp.config.loading import load_config
from coordexp.config.train import TrainConfig
from coordexp.recipes.stage1 import run_stage1


def main(jobs: Path) -> None:
    torch.set_num_threads(1)
    runs = [str(run_stage1(load_config(Path(file), TrainConfig, overrides))) for file, overrides in json.loads(jobs.read_text())]
    if torch.distributed.get_rank() == 0:
        jobs.with_suffix(".runs").write_text(json.dumps(runs))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
