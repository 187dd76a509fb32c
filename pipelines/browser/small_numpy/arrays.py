"""The arrays of the stand-in for numpy: types, views and copies, arithmetic with broadcasting."""

import math
import operator
from array import array as _buffer
from itertools import accumulate, chain, product


class _Type:
    def __init__(self, name, code, python):
        self.name, self.code, self.python = name, code, python

    def __call__(self, value=0):
        return (
            asarray(value).astype(self) if isinstance(value, (ndarray, list, tuple)) else self.python(value)
        )

    def __repr__(self):
        return self.name


float64, float32, int64 = _Type("float64", "d", float), _Type("float32", "f", float), _Type("int64", "q", int)
bool_, object_ = _Type("bool", "b", bool), _Type("object", "O", lambda value: value)
_OF_PYTHON = {float: float64, int: int64, bool: bool_, object: object_, str: object_}
_RANKS = "bqfd"
_TYPES = {each.code: each for each in (float64, float32, int64, bool_, object_)}


# What isinstance is asked for: in plain Python a number is a number.


def _code(dtype):
    return (dtype if isinstance(dtype, _Type) else _OF_PYTHON[dtype]).code


def _space(code, size):
    if code == "O":
        return [None] * size
    return _buffer(code, bytes(_buffer(code).itemsize * size))


def _size(shape):
    return math.prod(shape)


def _steps(shape):
    steps, step = [], 1
    for length in reversed(shape):
        steps.append(step)
        step *= length
    return tuple(reversed(steps))


def _places(shape, strides, offset=0):
    """Where the elements of a view lie, in order."""
    if not shape:
        return [offset]
    places = [offset]
    for length, stride in zip(shape, strides):
        steps = range(0, length * stride, stride) if stride else [0] * length
        places = [place + step for place in places for step in steps]
    return places


class ndarray:
    __hash__ = None

    def __init__(self, base, shape, code, strides=None, offset=0):
        self.base, self.shape, self.code, self.offset = base, tuple(shape), code, offset
        self.strides = _steps(self.shape) if strides is None else strides

    # -- what it is
    @property
    def dtype(self):
        return _TYPES[self.code]

    @property
    def ndim(self):
        return len(self.shape)

    @property
    def size(self):
        return _size(self.shape)

    @property
    def T(self):
        return ndarray(self.base, self.shape[::-1], self.code, self.strides[::-1], self.offset)

    def _places(self):
        if self.strides == _steps(self.shape):
            return range(self.offset, self.offset + self.size)
        return _places(self.shape, self.strides, self.offset)

    def _flat(self):
        places = self._places()
        if isinstance(places, range):
            values = list(self.base[places.start : places.stop])
        else:
            values = [self.base[place] for place in places]
        return [value != 0 for value in values] if self.code == "b" else values

    def __len__(self):
        return self.shape[0]

    def __iter__(self):
        if self.ndim == 1:
            return iter(self._flat())
        return (self[row] for row in range(self.shape[0]))

    def __contains__(self, value):
        return value in self._flat()

    def _one(self):
        if self.size != 1:
            raise ValueError("the truth or number of an array of several elements")
        return self._flat()[0]

    def __bool__(self):
        return self._one() != 0

    def __float__(self):
        return float(self._one())

    def __int__(self):
        return int(self._one())

    __index__ = __int__
    item = _one

    def __repr__(self):
        return f"array({self.tolist()})"

    def tolist(self):
        return (
            self._flat() if self.ndim == 1 else [row.tolist() for row in self] if self.ndim else self._one()
        )

    def astype(self, dtype, copy=True):
        code = _code(dtype)
        values = self._flat()
        if code == "q":
            values = [int(value) for value in values]
        elif code == "b":
            values = [value != 0 for value in values]
        return _made(values, self.shape, code)

    def copy(self):
        return _made(self._flat(), self.shape, self.code)

    def reshape(self, *shape):
        shape = list(shape[0] if isinstance(shape[0], (tuple, list)) else shape)
        if -1 in shape:
            known = -_size(shape)
            shape[shape.index(-1)] = self.size // known
        if _size(shape) != self.size:
            raise ValueError(f"no {shape} of {self.shape}")
        if self.strides == _steps(self.shape):
            return ndarray(self.base, shape, self.code, None, self.offset)
        return _made(self._flat(), shape, self.code)

    def ravel(self):
        return self.reshape(-1)

    flatten = ravel

    # -- a part of it
    def _part(self, key):
        """(shape, strides, offset) of a view, or (shape, places) of a copy."""
        key = key if isinstance(key, tuple) else (key,)
        if any(each is Ellipsis for each in key):
            at = next(place for place, each in enumerate(key) if each is Ellipsis)
            given = sum(1 for each in key if each is not None) - 1
            key = key[:at] + (slice(None),) * (self.ndim - given) + key[at + 1 :]
        key += (slice(None),) * (self.ndim - sum(1 for each in key if each is not None))
        shape, strides, offset, axis, lists, where = [], [], self.offset, 0, [], None
        for each in key:
            if each is None:
                shape.append(1)
                strides.append(0)
                continue
            length, stride = self.shape[axis], self.strides[axis]
            axis += 1
            if isinstance(each, slice):
                start, stop, step = each.indices(length)
                shape.append(len(range(start, stop, step)))
                strides.append(stride * step)
                offset += start * stride
            elif isinstance(each, (ndarray, list, tuple, range)):
                index = asarray(each)
                if index.code == "b":
                    (index,) = index.nonzero()
                where = len(shape) if where is None else where
                lists.append((index, length, stride))
            else:
                place = operator.index(each)
                if not -length <= place < length:
                    raise IndexError(f"{place} of {length}")
                offset += place % length * stride
        if not lists:
            return tuple(shape), tuple(strides), offset
        common = _broadcast_shape(*(index.shape for index, _, _ in lists))
        taken = [0] * _size(common)
        for index, length, stride in lists:
            for at, place in enumerate(_spread(index, common)):
                if not -length <= place < length:
                    raise IndexError(f"{place} of {length}")
                taken[at] += place % length * stride
        before = _places(shape[:where], strides[:where], offset)
        after = _places(shape[where:], strides[where:])
        places = [one + two + three for one in before for two in taken for three in after]
        return (*shape[:where], *common, *shape[where:]), places

    def __getitem__(self, key):
        part = self._part(key)
        if len(part) == 2:
            return _made([self.base[place] for place in part[1]], part[0], self.code)
        shape, strides, offset = part
        if not shape:
            value = self.base[offset]
            return value != 0 if self.code == "b" else value
        return ndarray(self.base, shape, self.code, strides, offset)

    def __setitem__(self, key, value):
        part = self._part(key)
        shape, places = part if len(part) == 2 else (part[0], _places(*part))
        if isinstance(value, (ndarray, list, tuple)):
            values = _spread(asarray(value), shape)
        else:
            values = [value] * len(places)
        base = self.base
        if self.code == "q":
            values = [int(each) for each in values]
        for place, each in zip(places, values):
            base[place] = each

    # -- over all of it, or along an axis
    def _along(self, axis, fold):
        if axis is None:
            return fold(self._flat())
        axis %= self.ndim
        others = [range(length) for at, length in enumerate(self.shape) if at != axis]
        rows = [self[(*each[:axis], slice(None), *each[axis:])]._flat() for each in product(*others)]
        return array([fold(row) for row in rows]).reshape([len(each) for each in others])

    def sum(self, axis=None):
        return self._along(axis, lambda values: math.fsum(values) if self.code in "fd" else sum(values))

    def mean(self, axis=None):
        return self._along(axis, lambda values: math.fsum(values) / len(values))

    def any(self, axis=None):
        return self._along(axis, any)

    def all(self, axis=None):
        return self._along(axis, all)

    def max(self, axis=None):
        return self._along(axis, max)

    def min(self, axis=None):
        return self._along(axis, min)

    def argmax(self):
        values = self._flat()
        return values.index(max(values))

    def argmin(self):
        values = self._flat()
        return values.index(min(values))

    def cumsum(self):
        return array(list(accumulate(self._flat())))

    def clip(self, low=None, high=None):
        def held(value):
            value = value if low is None else max(value, low)
            return value if high is None else min(value, high)

        return _each(held, self)

    def nonzero(self):
        return (array([at for at, value in enumerate(self._flat()) if value], int64),)

    def __neg__(self):
        return _each(operator.neg, self)

    def __invert__(self):
        return _each(operator.not_ if self.code == "b" else operator.invert, self, self.code)

    def __abs__(self):
        return _each(abs, self)


def _divided(one, other):
    try:
        return one / other
    except ZeroDivisionError:
        return math.nan if one == 0 or one != one else math.copysign(math.inf, one)


def _operator(name, function, code=None):
    def straight(self, other):
        return _two(function, self, other, code)

    def turned(self, other):
        return _two(function, other, self, code)

    def in_place(self, other):
        self[...] = _two(function, self, other, code)
        return self

    setattr(ndarray, f"__{name}__", straight)
    if code is None:
        setattr(ndarray, f"__r{name}__", turned)
        setattr(ndarray, f"__i{name}__", in_place)


for _name in ("add", "sub", "mul", "floordiv", "mod", "pow", "and", "or", "xor"):
    _operator(_name, getattr(operator, f"__{_name}__"))
_operator("truediv", _divided)
for _name in ("lt", "le", "gt", "ge", "eq", "ne"):
    _operator(_name, getattr(operator, _name), "b")


# -- making one -------------------------------------------------------------------------------------------------
def _made(values, shape, code):
    if code == "O":
        return ndarray(list(values), shape, code)
    if code == "b":
        values = [1 if value else 0 for value in values]
    return ndarray(_buffer(code, values), shape, code)


def _kind(values):
    code = "b"
    for value in values:
        if isinstance(value, float):
            return "d"
        if not isinstance(value, (int, ndarray)):
            return "O"
        if value is not True and value is not False:
            code = "q"
    return code if values else "d"


def array(of, dtype=None):
    if isinstance(of, ndarray):
        return of.copy() if dtype is None else of.astype(dtype)
    if not isinstance(of, (list, tuple, range)):
        if hasattr(of, "__iter__") and not isinstance(of, str):
            return array(list(of), dtype)
        return _made([of], (), _code(dtype) if dtype is not None else _kind([of]))
    rows = list(of)
    if rows and isinstance(rows[0], (list, tuple, range, ndarray)):
        parts = [asarray(row) for row in rows]
        if any(part.shape != parts[0].shape for part in parts):
            raise ValueError("rows of different lengths")
        code = _joint(part.code for part in parts)
        made = _made(
            list(chain.from_iterable(part._flat() for part in parts)), (len(rows), *parts[0].shape), code
        )
        return made if dtype is None else made.astype(dtype)
    code = _kind(rows) if dtype is None else _code(dtype)
    if dtype is not None:
        rows = [_TYPES[code].python(row) for row in rows]
    return _made(rows, (len(rows),), code)


def _joint(codes):
    codes = set(codes)
    return "O" if "O" in codes else max(codes, key=_RANKS.index)


def asarray(of, dtype=None):
    if isinstance(of, ndarray) and (dtype is None or _code(dtype) == of.code):
        return of
    return array(of, dtype)


ascontiguousarray = asarray


# -- broadcasting -----------------------------------------------------------------------------------------------
def _broadcast_shape(*shapes):
    width = max(map(len, shapes))
    padded = [(1,) * (width - len(shape)) + tuple(shape) for shape in shapes]
    common = tuple(next((length for length in lengths if length != 1), 1) for lengths in zip(*padded))
    if any(length not in (1, want) for shape in padded for length, want in zip(shape, common)):
        raise ValueError(f"shapes {shapes} do not go together")
    return common


def _spread(of, shape):
    """The elements of an array as they lie in a larger shape."""
    if of.shape == tuple(shape):
        return of._flat()
    missing = len(shape) - of.ndim
    lengths, strides = of.shape, of.strides
    if missing < 0:
        if any(length != 1 for length in lengths[:-missing]):
            raise ValueError(f"no {shape} of {of.shape}")
        lengths, strides, missing = lengths[-missing:], strides[-missing:], 0
    strides = (0,) * missing + strides
    lengths = (1,) * missing + lengths
    if any(length not in (1, want) for length, want in zip(lengths, shape)):
        raise ValueError(f"no {shape} of {of.shape}")
    strides = tuple(0 if length == 1 else stride for length, stride in zip(lengths, strides))
    return [of.base[place] for place in _places(shape, strides, of.offset)]


def _code_of(values, *sources):
    """The type of a result: of the arrays, and of plain numbers where these say more."""
    arrays = [each.code for each in sources if isinstance(each, ndarray)]
    kind = _kind(values) if values else _joint(arrays)
    if kind in "Od" and "d" not in arrays and "f" in arrays and kind != "O":
        return "f"
    return kind


def _two(function, one, other, code=None):
    if isinstance(other, ndarray) or isinstance(one, ndarray):
        first = one if isinstance(one, ndarray) else asarray(one)
        second = other if isinstance(other, ndarray) else asarray(other)
        shape = _broadcast_shape(first.shape, second.shape)
        values = list(map(function, _spread(first, shape), _spread(second, shape)))
        return _made(values, shape, code or _code_of(values, one, other))
    if isinstance(one, (list, tuple)) or isinstance(other, (list, tuple)):
        return _two(function, asarray(one), other, code)
    return function(one, other)


def _each(function, of, code=None):
    if isinstance(of, (list, tuple)):
        of = asarray(of)
    if not isinstance(of, ndarray):
        return function(of)
    values = list(map(function, of._flat()))
    return _made(values, of.shape, code or _code_of(values, of))
