"""Text similarity of labels: encoder protocol, normalization, cache. The heavy encoder is loaded lazily in one module."""
