"""infer, eval, vis and their artifacts."""
