"""As much of numpy as the package's `music` and `band` use, in plain Python: it stands in for numpy in a browser, where
a numpy of its own would have to be fetched for a few thousand numbers a block.

Arrays have any number of axes, one of the types below, views for slices and copies for lists, as numpy's. What is left
out raises. Held to numpy by `tests/pipelines/test_browser.py`: the same charts and seeds give the same features.
"""

import bisect
import math
import operator
from builtins import abs as _abs
from builtins import max as _max
from builtins import round as _round
from itertools import pairwise

from . import random as random
from .arrays import (
    _TYPES,
    _broadcast_shape,
    _code,
    _each,
    _joint,
    _kind,
    _made,
    _size,
    _space,
    _spread,
    _two,
    bool_,
    float64,
    int64,
    ndarray,
)
from .arrays import array as array
from .arrays import asarray as asarray
from .arrays import float32 as float32
from .arrays import object_ as object_

pi, inf, newaxis = math.pi, math.inf, None
ascontiguousarray = asarray


# What isinstance is asked for: in plain Python a number is a number.
class integer(int):
    pass


class floating(float):
    pass


number = (int, float)
bool = bool_


# -- making ---------------------------------------------------------------------------------------------------------
def zeros(shape, dtype=float64):
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    return ndarray(_space(_code(dtype), _size(shape)), shape, _code(dtype))


empty = zeros


def full(shape, value, dtype=None):
    made = zeros(shape, _TYPES[_kind([value])] if dtype is None else dtype)
    made[...] = value
    return made


def zeros_like(of, dtype=None):
    return zeros(of.shape, of.dtype if dtype is None else dtype)


def ones(shape, dtype=float64):
    return full(shape, 1, dtype)


def arange(start, stop=None, step=1, dtype=None):
    start, stop = (0, start) if stop is None else (start, stop)
    if all(isinstance(each, int) for each in (start, stop, step)):
        values = list(range(start, stop, step))
    else:
        values = [start + at * step for at in range(_max(0, math.ceil((stop - start) / step)))]
    return array(values, dtype if dtype is not None else int64 if isinstance(start, int) else None)


def linspace(start, stop, num=50, dtype=None):
    step = (stop - start) / _max(1, num - 1)
    values = [start + at * step for at in range(num)]
    if num > 1:
        values[-1] = float(stop)
    return array([float(value) for value in values], dtype)


def concatenate(parts, axis=0):
    parts = [asarray(part) for part in parts]
    axis %= parts[0].ndim
    shape = list(parts[0].shape)
    shape[axis] = sum(part.shape[axis] for part in parts)
    made = zeros(shape, _TYPES[_joint(part.code for part in parts if part.size or part.code != "d") if any(
        part.size for part in parts) else "d"])  # fmt: skip
    at = 0
    for part in parts:
        made[(slice(None),) * axis + (slice(at, at + part.shape[axis]),)] = part
        at += part.shape[axis]
    return made


def append(one, other):
    return concatenate([asarray(one).ravel(), array([other] if not hasattr(other, "__len__") else other)])


def stack(parts):
    return array([*parts])


def ix_(*lists):
    made = []
    for at, each in enumerate(lists):
        index = asarray(each)
        index = flatnonzero(index) if index.code == "b" else index
        made.append(index.reshape([-1 if place == at else 1 for place in range(len(lists))]))
    return tuple(made)


# -- element by element -----------------------------------------------------------------------------------------
def _floored(value):
    return value if math.isinf(value) else float(math.floor(value))


def exp(of):
    return _each(math.exp, of)


def log(of):
    return _each(lambda value: -inf if value == 0 else math.log(value), of)


def log2(of):
    return _each(lambda value: -inf if value == 0 else math.log2(value), of)


def sin(of):
    return _each(math.sin, of)


def cos(of):
    return _each(math.cos, of)


def floor(of):
    return _each(_floored, of)


def ceil(of):
    return _each(lambda value: value if math.isinf(value) else float(math.ceil(value)), of)


def abs(of):
    return _each(_abs, of)


def round(of, decimals=0):
    return _each(lambda value: _round(float(value) * 10**decimals) / 10**decimals, of)


def isfinite(of):
    return _each(math.isfinite, of)


def mod(one, other):
    return _two(operator.mod, one, other)


def _written(values, out):
    if out is None:
        return values
    out[...] = values
    return out


def maximum(one, other, out=None):
    return _written(_two(lambda a, b: a if a >= b else b, one, other), out)


def minimum(one, other, out=None):
    return _written(_two(lambda a, b: a if a <= b else b, one, other), out)


def clip(of, low=None, high=None):
    of = of if low is None else maximum(of, low)
    return of if high is None else minimum(of, high)


def where(condition, one, other):
    condition, one, other = asarray(condition), asarray(one), asarray(other)
    shape = _broadcast_shape(condition.shape, one.shape, other.shape)
    rows = zip(_spread(condition, shape), _spread(one, shape), _spread(other, shape))
    made = _made([a if c else b for c, a, b in rows], shape, _joint((one.code, other.code)))
    return made


def isin(of, among):
    known = set(asarray(among)._flat())
    return _each(lambda value: value in known, asarray(of), "b")


# -- in a row -------------------------------------------------------------------------------------------------------
def flatnonzero(of):
    return asarray(of).nonzero()[0]


def cumsum(of):
    return asarray(of).cumsum()


def diff(of):
    values = asarray(of)._flat()
    return array([after - before for before, after in pairwise(values)], asarray(of).dtype)


def sort(of):
    return array(sorted(asarray(of)._flat()), asarray(of).dtype)


def argsort(of, kind=None):
    values = asarray(of)._flat()
    return array(sorted(range(len(values)), key=values.__getitem__), int64)


def argmax(of):
    return asarray(of).argmax()


def argmin(of):
    return asarray(of).argmin()


def mean(of):
    return asarray(of).mean()


def searchsorted(of, values, side="left"):
    row = asarray(of)._flat()
    find = bisect.bisect_right if side == "right" else bisect.bisect_left
    return _each(lambda value: find(row, value), values, "q")


def interp(at, xs, ys):
    xs, ys = list(xs), list(ys)

    def between(x):
        if x <= xs[0]:
            return float(ys[0])
        if x >= xs[-1]:
            return float(ys[-1])
        place = bisect.bisect_right(xs, x) - 1
        slope = (ys[place + 1] - ys[place]) / (xs[place + 1] - xs[place])
        return float(slope * (x - xs[place]) + ys[place])

    return _each(between, at)
