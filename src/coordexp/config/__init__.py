"""Strict typed configuration: YAML in, pydantic models out; every mistake names file, key and the nearest valid key."""
