"""Record files to the formats of other tools."""
