"""When two callables count as the same: the same code, and equal constants that the code reads.

A function that is made on every call (a closure, an optimizer such as `optax.adam(1e-3)`) is a
different object each time. Compared by identity, its program would be compiled again for each.
`key_of` gives equal keys to functions that must compute the same. It looks at a function's code,
its defaults, what it closes over and the global names that it reads.

It accepts only values that nobody can change later: numbers, strings, types, tuples and frozen
dataclasses of these, functions, and modules of installed libraries. A function that reads anything
else (an array, a list, an object with attributes, a module of the user) has no key. Such functions
are the same only if they are the same object.
"""

import dataclasses
import enum
import functools
import sys
import types
from collections.abc import Hashable, Iterator
from typing import Any

import numpy as np

_LIBRARIES = sys.stdlib_module_names | {"jax", "jaxlib", "numpy", "optax", "chex", "dpg"}
_PLAIN = (bool, int, str, bytes, complex, np.dtype, enum.Enum, type, types.BuiltinFunctionType)


class _ChangeableError(Exception):
    """A value that may be changed while a function that reads it stays the same object."""


def key_of(function: Any) -> Hashable | None:
    """A key that equal functions share; None if they can be compared only by identity.

    Args:
        function: a Python function, a `functools.partial`, or a tuple of such (an optax
            transformation).
    """
    try:
        return _key(function, ())
    except (_ChangeableError, RecursionError):
        return None


def _key(value: Any, above: tuple[int, ...]) -> Hashable:
    if value is None or value is Ellipsis:
        return value
    if isinstance(value, float):
        return ("float", value.hex())
    if isinstance(value, np.generic):
        return (type(value), value.tobytes())
    if isinstance(value, _PLAIN):
        return (type(value), value)
    if id(value) in above:
        raise _ChangeableError  # a function that reads itself
    return _compound(value, (*above, id(value)))


def _compound(value: Any, above: tuple[int, ...]) -> Hashable:
    if isinstance(value, tuple | frozenset):
        parts = value if isinstance(value, tuple) else sorted(value, key=repr)
        return (type(value), tuple(_key(x, above) for x in parts))
    if isinstance(value, types.FunctionType):
        return _key_of_function(value, above)
    if isinstance(value, functools.partial):
        named = tuple(sorted(value.keywords.items()))
        return ("partial", *(_key(x, above) for x in (value.func, value.args, named)))
    if isinstance(value, types.ModuleType) and value.__name__.partition(".")[0] in _LIBRARIES:
        return ("module", value.__name__)
    parameters = getattr(value, "__dataclass_params__", None)
    if parameters is not None and parameters.frozen:
        fields = (getattr(value, field.name) for field in dataclasses.fields(value))
        return (type(value), tuple(_key(x, above) for x in fields))
    if _is_of_a_library(value):
        return ("library", value.__module__, value.__qualname__)
    raise _ChangeableError


def _is_of_a_library(value: Any) -> bool:
    """Whether a library's module has this very object under its own name, such as `jax.nn.gelu`."""
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    if not (isinstance(module, str) and module.partition(".")[0] in _LIBRARIES):
        return False
    return name is not None and getattr(sys.modules.get(module), name, None) is value


def _key_of_function(function: types.FunctionType, above: tuple[int, ...]) -> Hashable:
    top = (function.__module__ or "").partition(".")[0]
    library = top in _LIBRARIES
    if library and function.__closure__ is None:
        return ("library", function.__module__, function.__qualname__, function.__code__)
    # Names that a library's code reads are the library's own and do not change.
    read = () if library else tuple(_globals_of(function))
    cells = tuple(_content(cell) for cell in function.__closure__ or ())
    defaults = (function.__defaults__, tuple(sorted((function.__kwdefaults__ or {}).items())))
    return (function.__code__, *(_key(x, above) for x in (cells, defaults, read)))


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        raise _ChangeableError from None  # not filled yet


def _globals_of(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    for name in sorted(set(_names(function.__code__))):
        if name in function.__globals__:
            yield name, function.__globals__[name]


def _names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)
