"""Torch functions on tensors: token cross-entropy, coordinate distributions, boxes. Each returns a sum."""
