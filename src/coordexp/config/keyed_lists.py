"""Lists of sections that have names: `extends` merges them entry by entry, by name, where plain lists are replaced as a whole."""

from __future__ import annotations

from coordexp.config.yaml_source import KeyPath, Origin, Tree, Value
from coordexp.types.errors import ConfigError


def to_mapping(tree: Tree, *, key: str, name: str) -> Tree:
    """The tree with the list at top-level `key` as a mapping from each entry's `name`; anything but a list is left for the schema to refuse.

    Raises:
        ConfigError: an entry without a name, or two of the same.
    """
    items = tree.values.get(key)
    if not isinstance(items, list):
        return tree
    entries: dict[str, Value] = {}
    moved: dict[KeyPath, KeyPath] = {}
    for number, item in enumerate(items):
        found = item.get(name) if isinstance(item, dict) else None
        where = f"{tree.origins[(key, number)]}: {key}[{number}]"
        if not isinstance(found, str) or not found:
            raise ConfigError(f"an entry without '{name}'", where=where, fix=f"begin it with '- {name}: …': files merge by it")
        if found in entries:
            raise ConfigError(f"a second entry with {name} '{found}'", where=where, fix="give each its own, or keep one of them")
        entries[found] = item
        moved[(key, number)] = (key, found)
    return Tree({**tree.values, key: entries}, _rename(tree.origins, moved))


def to_list(tree: Tree, *, key: str) -> Tree:
    """`to_mapping` undone, after files were merged; entries are in the order in which their names came up first."""
    entries = tree.values.get(key)
    if not isinstance(entries, dict):
        return tree
    moved: dict[KeyPath, KeyPath] = {(key, name): (key, number) for number, name in enumerate(entries)}
    return Tree({**tree.values, key: list(entries.values())}, _rename(tree.origins, moved))


def _rename(origins: dict[KeyPath, Origin], moved: dict[KeyPath, KeyPath]) -> dict[KeyPath, Origin]:
    return {(*moved[path[:2]], *path[2:]) if path[:2] in moved else path: origin for path, origin in origins.items()}
