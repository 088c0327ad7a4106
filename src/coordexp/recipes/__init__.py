"""Composition roots: read top to bottom, no logic."""
