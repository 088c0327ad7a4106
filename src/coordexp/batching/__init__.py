"""Images and prompts as model inputs, segments, packs, rope positions, collate."""
