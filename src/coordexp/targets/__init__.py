"""The supervision table: (provenance, role) to weight, and target sequences made with it."""
