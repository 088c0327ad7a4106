"""Detection metrics from gt_vs_pred lines: ingest, COCO, set-matching F1. No model, no torch."""
