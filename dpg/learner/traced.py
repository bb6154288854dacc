"""What a function computes, as text and arrays that are equal in every process."""

import re
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr

_ADDRESS = re.compile(r"\b0x[0-9a-f]+")
_SET = re.compile(r"frozenset\(\{(.*?)\}\)")


def traced(function: Callable, *args: Any) -> list[Any]:
    """The program that JAX traces, without compiling it, and the arrays that it closes over.

    Numbers that the function reads, such as a learning rate, are in the text.
    """
    program = jax.make_jaxpr(function)(*args)
    text = _ADDRESS.sub("", str(program))
    return [_SET.sub(_in_order, text), *_constants(program)]


def _in_order(found: re.Match[str]) -> str:
    return f"frozenset({sorted(found[1].split(', '))})"


def _constants(program: Any) -> Iterator[Any]:
    """The arrays that a program and the programs inside it close over."""
    if isinstance(program, ClosedJaxpr):
        yield from program.consts
        program = program.jaxpr
    for equation in program.eqns:
        inside = jax.tree.leaves(equation.params, is_leaf=_is_program)
        for part in filter(_is_program, inside):
            yield from _constants(part)


def _is_program(x: Any) -> bool:
    return isinstance(x, ClosedJaxpr | Jaxpr)
