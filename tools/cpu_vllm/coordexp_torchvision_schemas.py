"""Start-up hook of the CPU environment of vLLM: lets the registry's torchvision, which was built for CUDA, be imported beside a CPU torch.

torchvision registers fake kernels for operators of its compiled library as soon as it is imported. On a CPU torch that library cannot be loaded, and the
import ends with "operator torchvision::nms does not exist". Defining the schemas first is enough: nothing here computes these operators.
Runs when `torch` is imported, and only then, so that other Python programs of the environment start as fast as ever.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_kept: list[object] = []
"""The library lives as long as this reference."""


def define() -> None:
    """Define the schemas in the torch that is loaded."""
    import torch

    library = torch.library.Library("torchvision", "DEF")
    for schema in _SCHEMAS:
        library.define(schema)
    _kept.append(library)


class _BeforeTorchvision(importlib.abc.MetaPathFinder):
    """Finds nothing itself; is asked first when torchvision is imported."""

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> importlib.machinery.ModuleSpec | None:
        if fullname == "torchvision":
            sys.meta_path.remove(self)
            define()
        return None


sys.meta_path.insert(0, _BeforeTorchvision())
