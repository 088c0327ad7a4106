"""YAML files of data sets: plain values alone, and no more of them than a file of names can have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from coordexp.types.yaml_limits import MAX_BYTES, describe_excess


def read_plain_yaml(path: Path) -> tuple[Any, Any]:
    """(values, the same with every scalar as the text that is written there).

    Raises:
        OSError: the file cannot be read.
        ValueError: not YAML in UTF-8, a tag that is no plain value, or too large; with the reason.
    """
    with path.open("rb") as stream:
        content = stream.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ValueError(f"larger than {MAX_BYTES >> 20} MiB")
    text = content.decode("utf-8-sig")
    try:
        return _construct(yaml.SafeLoader(text)), _construct(yaml.BaseLoader(text))
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(" ".join(str(error).split())) from error


def _construct(loader: Any) -> Any:
    try:
        node = loader.get_single_node()
        excess = None if node is None else describe_excess(node)
        if excess is not None:
            raise ValueError(excess)
        return None if node is None else loader.construct_document(node)
    finally:
        loader.dispose()
