"""Data files: JSONL, importers, rescale, conversion, validation, embedded sources, mixtures and samplers."""
