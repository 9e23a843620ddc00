"""Fetching memory into the cache before it is used, in compiled loops."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

_WRITE, _KEEP, _DATA = 1, 3, 1
_item_pointer: Any = cgutils.get_item_pointer


def _prefetch(typingctx: Any, array: Any, line: Any) -> Any:  # noqa: ARG001
    """Fetch the beginning of ``array[line]``, which is going to be changed; no more than a hint to the processor."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = signature.args[0]
        value = context.make_array(kind)(context, builder, arguments[0])
        place = context.cast(builder, arguments[1], signature.args[1], types.intp)
        zero = context.get_constant(types.intp, 0)
        pointer = _item_pointer(context, builder, kind, value, [place] + [zero] * (kind.ndim - 1))
        pointer = builder.bitcast(pointer, cgutils.voidptr_t)
        number = ir.IntType(32)
        hint = builder.module.declare_intrinsic(
            "llvm.prefetch", [cgutils.voidptr_t], ir.FunctionType(ir.VoidType(), [cgutils.voidptr_t, number, number, number])
        )
        builder.call(hint, [pointer, number(_WRITE), number(_KEEP), number(_DATA)])
        return context.get_dummy_value()

    return types.void(array, line), generate


#: ``prefetch(array, line)`` in a compiled function.
prefetch: Any = intrinsic(_prefetch)
