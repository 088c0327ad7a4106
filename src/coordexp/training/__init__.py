"""Learner side: step trainer, objective, step loader, callbacks, checkpoints."""
