"""The configuration files that come with the product: inside an installed package, or in the `configs` folder of a clone."""

from __future__ import annotations

from pathlib import Path

import coordexp
from coordexp.types.errors import ConfigError


def shipped_config(name: str) -> Path:
    """Path of a shipped file. Example: `shipped_config("demo/stage1.yaml")`

    Raises:
        ConfigError: the installation is incomplete.
    """
    package = Path(coordexp.__file__).parent
    for folder in (package / "configs", package.parent.parent / "configs"):
        if (folder / name).is_file():
            return folder / name
    raise ConfigError(f"the file configs/{name} is missing", where=str(package), fix="install the package again, or run in a clone of the repository")
