"""Round the inputs of every matrix product on a CPU, as a GPU's faster precisions do.

On a GPU, JAX's default is TensorFloat-32: the inputs of every product, those of its derivatives
too, are rounded to 10 bits of mantissa and added up in float32. A CPU multiplies float32 in full
whatever it is asked. So the rounding is done here, where JAX hands a product to the compiler.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import jax
from jax.interpreters import mlir


@contextlib.contextmanager
def inputs_rounded_to(bits: int) -> Iterator[None]:
    """Round the inputs of products in programs that are compiled inside.

    Args:
        bits: bits of mantissa.

    Raises:
        AssertionError: no product was compiled inside, or this version of JAX lowers products in
            another way.
    """
    from jax._src.lax import lax as internal  # here: it may differ between versions of JAX

    done = []
    lower = functools.partial(internal._dot_general_lower, platform="cpu")
    rounding = mlir.lower_fun(
        lambda x: jax.lax.reduce_precision(x, 8, bits), multiple_results=False
    )

    def lower_rounded(context: Any, *operands: Any, **options: Any) -> Any:
        done.append(1)
        rounded = [
            rounding(context.replace(primitive=None, avals_in=[aval], avals_out=[aval]), operand)[0]
            for aval, operand in zip(context.avals_in, operands, strict=True)
        ]
        return lower(context, *rounded, **options)

    mlir.register_lowering(internal.dot_general_p, lower_rounded, platform="cpu")
    jax.clear_caches()
    try:
        yield
    finally:
        mlir.register_lowering(internal.dot_general_p, lower, platform="cpu")
        jax.clear_caches()
    assert done, "no product was rounded: JAX lowers them by another rule now"
