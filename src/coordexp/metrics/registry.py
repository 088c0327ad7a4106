"""The one registry. What is logged is checked against it, and docs/training/METRICS_LOSSES.md is made from it."""

from __future__ import annotations

from typing import Final

from coordexp.metrics.detection import DETECTION_METRICS
from coordexp.metrics.engine import ENGINE_METRICS
from coordexp.metrics.specs import MetricRegistry
from coordexp.metrics.stage1 import STAGE1_METRICS
from coordexp.metrics.stage2 import STAGE2_AB_METRICS, STAGE2_EVAL_METRICS, STAGE2_METRICS

REGISTRY: Final = MetricRegistry((*ENGINE_METRICS, *STAGE1_METRICS, *STAGE2_METRICS, *STAGE2_AB_METRICS, *STAGE2_EVAL_METRICS, *DETECTION_METRICS))
