"""Costs, gates and assignment between predictions and ground truth."""
