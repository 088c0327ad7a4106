"""Inference, then evaluation and pictures when the file says so: the same as `coordexp infer …`."""

import sys

from in_venv import run_command

if __name__ == "__main__":
    sys.exit(run_command("infer"))
