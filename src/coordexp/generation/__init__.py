"""One backend protocol for rollouts and inference, seeds and scores."""
