"""Actor side of Stage-2; imports no torch."""
