"""Loading and saving checkpoints, the coordinate vocabulary, the tiny model."""
