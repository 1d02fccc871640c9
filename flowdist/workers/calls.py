"""The stages of maps and executors: they call a function that knows nothing of flows, and pickle
what came of it.

Worker processes import this, so it stays light. What the calls are made from is packed by
`flowdist.objects`.
"""

from __future__ import annotations

import inspect
import pickle
import traceback
from collections.abc import Callable, Iterable
from inspect import Parameter
from typing import Any

import cloudpickle

from flowdist.artifacts import Payload
from flowdist.errors import RowError
from flowdist.objects import FIELD, Packed

# The grid's column of a map, and the constant that holds the items where no column can.
ITEM, ITEMS = "item", "items"
# The grid's column of an executor's run, and the constant that holds its calls.
NUMBER, CALLS = "number", "calls"
# Pickled by reference whoever defines them, so the fast pickler of the standard library will do.
_PLAIN = frozenset({int, float, str, bool, bytes, complex, type(None)})


class ItemCall:
    """The stage of a map: calls `fn` on an item, with the constants of these names.

    The item is the value of the grid's column, or (`packed`) the object of that number.
    """

    def __init__(self, fn: Callable[..., Any], const: Iterable[str], packed: bool) -> None:
        self.fn = fn
        self.packed = packed
        # Parameters are filled by name, and these are the names.
        names = [*([ITEMS] if packed else []), *const]
        self.__signature__ = inspect.Signature(
            [
                Parameter(ITEM, Parameter.POSITIONAL_ONLY),
                *(Parameter(name, Parameter.KEYWORD_ONLY) for name in names),
            ]
        )

    def __call__(self, item: Any, /, **const: Any) -> dict[str, Payload]:
        if self.packed:
            item = const.pop(ITEMS)[item]
        return {FIELD: dump_value(self.fn(item, **const))}


def dump_value(value: object) -> Payload:
    """What a call returned, pickled. Raises whatever pickling raises.

    >>> dump_value((1, 2)).codec
    'cloudpickle'
    """
    plain = type(value) in _PLAIN
    data = pickle.dumps(value, pickle.HIGHEST_PROTOCOL) if plain else cloudpickle.dumps(value)
    return Payload("cloudpickle", data)


def make_call(number: int, calls: Packed) -> dict[str, Payload]:
    """The stage of an executor's runs: makes a call, and pickles whether it returned, what it
    returned or raised, and the traceback.
    """
    text = ""
    try:
        fn, args, kwargs = calls[number]
        returned, value = True, fn(*args, **kwargs)
    except BaseException as error:
        returned, value, text = False, error, _traceback(error)
    try:
        data = cloudpickle.dumps((returned, value, text))
        if not returned:
            pickle.loads(data)  # many exceptions can be pickled, and cannot be made again
    except Exception as error:
        if returned:
            text = _traceback(error)
            told = f"what the call returned, a {type(value).__name__}, cannot be pickled: {error}"
        else:
            told = f"{type(value).__qualname__}: {value} (the exception itself cannot be pickled)"
        data = cloudpickle.dumps((False, RowError(told), text))
    return {FIELD: Payload("cloudpickle", data)}


def _traceback(error: BaseException) -> str:
    # Without the frame of `make_call`.
    below = error.__traceback__.tb_next if error.__traceback__ else None
    return "".join(traceback.format_exception(type(error), error, below))
