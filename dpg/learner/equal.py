"""When two callables count as the same: the same code, and equal constants that the code reads.

A function that is made on every call (a closure, an optimizer such as `optax.adam(1e-3)`) is a
different object each time. Compared by identity, its program would be compiled again for each.
`key_of` gives equal keys to functions that must compute the same. It looks at a function's code,
its defaults, what it closes over and the global names that it reads.

It accepts only values that nobody can change later: numbers, strings, tuples and frozen dataclasses
of these, functions, and modules and classes of installed libraries. A class of the user is looked
at like a function: its members must be such values too. A function that reads anything else (an
array, a list, an object with attributes, a bound method, a module of the user) has no key. Such
functions are the same only if they are the same object.
"""

import dataclasses
import enum
import functools
import re
import sys
import types
from collections.abc import Hashable, Iterator
from typing import Any

import numpy as np
import optax

# Classes that are made at run time say that `types` is their module.
_LIBRARIES = sys.stdlib_module_names - {"types"} | {
    "jax", "jaxlib", "numpy", "optax", "chex", "dpg"
}  # fmt: skip
_PLAIN = (bool, int, str, bytes, complex, np.dtype, enum.Enum)
_GETTERS = (
    types.GetSetDescriptorType,
    types.MemberDescriptorType,
    type(optax.GradientTransformation.init),
)
"""The types of slots and of the fields of named tuples: they read the instance and nothing else."""

_SAYS_NOTHING = {
    *("__dict__", "__weakref__", "__doc__", "__annotations__", "__repr__", "_abc_impl"),
    *("__dataclass_fields__", "__dataclass_params__", "__setattr__", "__delattr__"),
    "_field_defaults",  # of a named tuple: `__new__` has them too
}
"""Members of a class that do not change what a loss computes."""

_ENUMS_OWN = re.compile("_[^_].*_")
"""The names under which an enum keeps lists of its members."""


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
    if isinstance(value, np.generic):  # float64 is also a float, but JAX promotes it differently
        return (type(value), value.tobytes())
    if type(value) is float:
        return ("float", value.hex())
    if isinstance(value, _PLAIN) and _is_library_class(type(value)):
        return (type(value), value)
    if id(value) in above:
        raise _ChangeableError  # a function that reads itself
    return _compound(value, (*above, id(value)))


def _compound(value: Any, above: tuple[int, ...]) -> Hashable:
    if isinstance(value, tuple | frozenset):
        parts = value if isinstance(value, tuple) else sorted(value, key=repr)
        return (_key(type(value), above), *(_key(x, above) for x in parts))
    if isinstance(value, type):
        return _key_of_class(value, above)
    if isinstance(value, enum.Enum):
        return (_key(type(value), above), value.name)
    if isinstance(value, types.FunctionType):
        return _key_of_function(value, above)
    if isinstance(value, types.BuiltinFunctionType):
        return _key_of_builtin(value)
    if isinstance(value, functools.partial):
        named = tuple(sorted(value.keywords.items()))
        return ("partial", *(_key(x, above) for x in (value.func, value.args, named)))
    if isinstance(value, types.ModuleType) and value.__name__.partition(".")[0] in _LIBRARIES:
        return ("module", value.__name__)
    parameters = getattr(value, "__dataclass_params__", None)
    if parameters is not None and parameters.frozen:
        fields = (getattr(value, field.name) for field in dataclasses.fields(value))
        return (_key(type(value), above), *(_key(x, above) for x in fields))
    if _is_of_a_library(value):
        return ("library", value.__module__, value.__qualname__)
    raise _ChangeableError


def _key_of_class(value: type, above: tuple[int, ...]) -> Hashable:
    """A class of the user counts by its members too, since these can be set anew."""
    if _is_library_class(value):
        return ("class", value)
    of_enum = issubclass(value, enum.Enum)
    members = tuple(
        (name, _key_of_member(member, value, above))
        for name, member in sorted(vars(value).items())
        if name not in _SAYS_NOTHING and not (of_enum and _ENUMS_OWN.fullmatch(name))
    )
    return ("class", value, members, *(_key(x, above) for x in (type(value), *value.__bases__)))


def _key_of_member(member: Any, of: type, above: tuple[int, ...]) -> Hashable:
    if isinstance(member, _GETTERS):
        return member
    if isinstance(member, staticmethod | classmethod):
        return (type(member), _key(member.__func__, above))
    if isinstance(member, property):
        return ("property", _key((member.fget, member.fset, member.fdel), above))
    if isinstance(member, enum.Enum) and isinstance(member, of):
        own = {name: x for name, x in vars(member).items() if name != "__objclass__"}
        return ("member", _key(tuple(sorted(own.items())), above))
    return _key(member, above)


def _is_library_class(value: type) -> bool:
    return value.__module__.partition(".")[0] in _LIBRARIES


def _key_of_builtin(function: types.BuiltinFunctionType) -> Hashable:
    """A key of a function in C, such as `math.sqrt`; what is bound to an object may change."""
    bound = function.__self__
    if bound is None or isinstance(bound, types.ModuleType):
        return ("builtin", function)
    if isinstance(bound, type) and _is_library_class(bound):
        return ("builtin", function)
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
