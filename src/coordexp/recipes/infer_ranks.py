"""Inference under torchrun: which rank this is, which device it takes, and the wait for the others."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType

_LONGEST = datetime.timedelta(days=30)
"""Ranks wait for the slowest part, whatever it takes; one that dies is noticed by torchrun, which ends the others."""


@dataclass(frozen=True, slots=True)
class Ranks:
    """Example: `with Ranks.of(os.environ) as ranks: …; ranks.wait()`"""

    rank: int = 0
    local_rank: int = 0
    world_size: int = 1

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Ranks:
        """As torchrun says it; alone without it."""
        return cls(int(environment.get("RANK", "0")), int(environment.get("LOCAL_RANK", "0")), int(environment.get("WORLD_SIZE", "1")))

    @property
    def is_several(self) -> bool:
        return self.world_size > 1

    def __enter__(self) -> Ranks:
        if self.is_several:
            import torch.distributed

            torch.distributed.init_process_group("gloo", timeout=_LONGEST)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.is_several:
            import torch.distributed

            torch.distributed.destroy_process_group()

    def wait(self) -> None:
        """Until every rank is here."""
        if self.is_several:
            import torch.distributed

            torch.distributed.barrier()

    def device(self, asked: str) -> str:
        """`auto`: the GPU of this rank, if there are GPUs."""
        if not self.is_several or asked != "auto":
            return asked
        import torch

        return f"cuda:{self.local_rank}" if torch.cuda.is_available() else "cpu"
