"""Evaluation of gt_vs_pred.jsonl: the same as `coordexp eval …`."""

import sys

from in_venv import run_command

if __name__ == "__main__":
    sys.exit(run_command("eval"))
