"""Finding a parameter by its name in a tree of parameters."""

from typing import Any

import jax

from dpg.errors import DpgError


def lookup(params: Any, name: str) -> jax.Array:
    """The array at a dotted path, such as "lm_head" or "layers.attn_qkv".

    Raises:
        DpgError: no such parameter, or a branch of the tree instead of an array; the message lists
            the parameters.
    """
    node = params
    for key in name.split("."):
        node = _child(node, key)
        if node is None:
            raise DpgError(f"no parameter {name!r}; there are {_names(params)}.{_hint(name)}")
    if not hasattr(node, "shape"):
        raise DpgError(f"{name!r} is a group of parameters; name one of {_names(params)}")
    return node


def _child(node: Any, key: str) -> Any:
    if isinstance(node, dict):
        return node.get(key)
    if isinstance(node, list | tuple) and key.isdigit() and int(key) < len(node):
        return node[int(key)]
    return getattr(node, key, None)


def _names(params: Any) -> str:
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    return ", ".join(jax.tree_util.keystr(path, simple=True, separator=".") for path in paths)


def _hint(name: str) -> str:
    if name == "lm_head":
        return " A model without an lm_head ties it to its embedding: untie it first."
    return ""
