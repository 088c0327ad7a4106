"""What silently ruins a training run, found in a record file and its images: each finding with its evidence and what to do."""
