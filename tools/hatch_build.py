"""Puts the shipped configuration files into the wheel. An editable installation reads those of the clone, so it gets no copy that could grow old."""

from __future__ import annotations

from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class ShippedConfigs(BuildHookInterface):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "standard":
            build_data["force_include"]["configs"] = "coordexp/configs"
