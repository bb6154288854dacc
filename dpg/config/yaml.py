"""YAML, read strictly: numbers such as 1e-6 are numbers, and a key given twice is refused."""

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from dpg.config.base import ConfigError, Tree

_MERGE = "tag:yaml.org,2002:merge"  # `<<`, which PyYAML resolves
_FLOAT = "tag:yaml.org,2002:float"
# YAML 1.1 wants a point in a float: without this, `1e-6` is the string "1e-6".
_EXPONENT = re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$")
_STARTS = list("-+0123456789.")


class _StrictLoader(yaml.SafeLoader):
    """Reads 1e-6 as a number and refuses a key that is given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: list[object] = []
        for key in (key for key, _ in node.value if key.tag != _MERGE):
            name = self.construct_object(key, deep=True)
            if name in seen:
                raise yaml.YAMLError(f"key given twice: {name}, on line {key.start_mark.line + 1}")
            seen.append(name)
        return super().construct_mapping(node, deep)


class _StrictDumper(yaml.SafeDumper):
    """Writes what `_StrictLoader` reads back as the same values, without anchors."""

    def ignore_aliases(self, data: object) -> bool:
        return True


for _class in (_StrictLoader, _StrictDumper):
    _class.add_implicit_resolver(_FLOAT, _EXPONENT, _STARTS)


def read(path: Path, *, if_missing: str) -> Tree:
    """Read a YAML file that has a mapping at the top.

    Args:
        path: the file.
        if_missing: what to do if there is no such file, for the error.

    Raises:
        ConfigError: the file is missing, cannot be read, is no valid YAML, has a key twice, or has
            something other than a mapping at the top.
    """
    try:
        value = yaml.load(path.read_text(encoding="utf-8"), Loader=_StrictLoader)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; {if_missing}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as text: {error}") from None
    if not isinstance(value, dict):
        found = "nothing" if value is None else f"a {type(value).__name__}"
        raise ConfigError(f"{path}: expected a mapping at the top, got {found}")
    return value


def dump(tree: Tree) -> str:
    """The YAML of a tree; `read` gives the same values back, in the same order."""
    return yaml.dump(tree, Dumper=_StrictDumper, sort_keys=False, allow_unicode=True)
