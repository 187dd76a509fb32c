"""numpy.random's default generator, number for number: SeedSequence, PCG64, the ziggurat, Lemire's bounded integers.

Sources: O'Neill (2014), "PCG"; Marsaglia and Tsang (2000), "The ziggurat method"; Lemire (2019), "Fast random integer
generation in an interval"; numpy's own order of draws.
"""

import math

_M32, _M64, _M128 = (1 << 32) - 1, (1 << 64) - 1, (1 << 128) - 1
_PCG = 0x2360ED051FC65DA44385DF649FCCF645


def _words(entropy):
    """Little-endian 32-bit words of a whole number, or of several, one after another."""
    if isinstance(entropy, int):
        words = [entropy & _M32]
        while entropy := entropy >> 32:
            words.append(entropy & _M32)
        return words
    return [word for each in entropy for word in _words(int(each))]


def _seeded(entropy, count):
    """`count` words of 64 bits: numpy's SeedSequence."""
    words, constant = _words(entropy), 0x43B0D7E5

    def hashed(value):
        nonlocal constant
        value ^= constant
        constant = constant * 0x931E8875 & _M32
        value = value * constant & _M32
        return value ^ value >> 16

    def mixed(one, other):
        result = (0xCA01F9DD * one - 0x4973F715 * other) & _M32
        return result ^ result >> 16

    pool = [hashed(words[place] if place < len(words) else 0) for place in range(4)]
    for source in range(4):
        for target in range(4):
            if source != target:
                pool[target] = mixed(pool[target], hashed(pool[source]))
    for word in words[4:]:
        for target in range(4):
            pool[target] = mixed(pool[target], hashed(word))
    constant, state = 0x8B51F9DD, []
    for place in range(2 * count):
        value = pool[place % 4] ^ constant
        constant = constant * 0x58F38DED & _M32
        value = value * constant & _M32
        state.append(value ^ value >> 16)
    return [low | high << 32 for low, high in zip(state[::2], state[1::2])]


_R = 3.6541528853610088


def _ziggurat():
    scale, at = 2.0**52, _R
    area = _R * math.exp(-0.5 * _R * _R) + math.sqrt(math.pi / 2) * math.erfc(_R / math.sqrt(2))
    widest = area / math.exp(-0.5 * _R * _R)
    inside, width, height = [0] * 256, [0.0] * 256, [0.0] * 256
    inside[0], width[0], height[0] = int(_R / widest * scale), widest / scale, 1.0
    width[255], height[255] = _R / scale, math.exp(-0.5 * _R * _R)
    for row in range(254, 0, -1):
        before, at = at, math.sqrt(-2.0 * math.log(area / at + math.exp(-0.5 * at * at)))
        inside[row + 1], width[row], height[row] = (
            int(at / before * scale),
            at / scale,
            math.exp(-0.5 * at * at),
        )
    return inside, width, height


_INSIDE, _WIDTH, _HEIGHT = _ziggurat()


class Generator:
    def __init__(self, entropy):
        high, low, first, second = _seeded(entropy, 4)
        self._inc = ((first << 64 | second) << 1 | 1) & _M128
        self._state, self._half = self._inc, None
        self._state = (self._state + (high << 64 | low)) & _M128
        self._step()

    def _step(self):
        self._state = (self._state * _PCG + self._inc) & _M128

    def _next64(self):
        self._step()
        state = self._state
        value, turn = (state >> 64 ^ state) & _M64, state >> 122
        return (value >> turn | value << (64 - turn)) & _M64

    def _next32(self):
        if self._half is not None:
            value, self._half = self._half, None
            return value
        value = self._next64()
        self._half = value >> 32
        return value & _M32

    def _below(self, count):
        """A whole number from 0 to `count` - 1."""
        if count == 1:
            return 0
        product = self._next32() * count
        if product & _M32 < count:
            least = (_M32 - count + 1) % count
            while product & _M32 < least:
                product = self._next32() * count
        return product >> 32

    def random(self):
        return (self._next64() >> 11) * 2.0**-53

    def uniform(self, low=0.0, high=1.0):
        return low + (high - low) * self.random()

    def integers(self, low, high=None):
        low, high = (0, low) if high is None else (low, high)
        return int(low) + self._below(int(high) - int(low))

    def standard_normal(self):
        while True:
            bits = self._next64()
            row, negative, size = bits & 0xFF, bits >> 8 & 1, bits >> 9 & 0x000FFFFFFFFFFFFF
            value = -size * _WIDTH[row] if negative else size * _WIDTH[row]
            if size < _INSIDE[row]:
                return value
            if row == 0:
                while True:
                    beyond = -math.log1p(-self.random()) / _R
                    if -2.0 * math.log1p(-self.random()) > beyond * beyond:
                        return -(_R + beyond) if size >> 8 & 1 else _R + beyond
            if (_HEIGHT[row - 1] - _HEIGHT[row]) * self.random() + _HEIGHT[row] < math.exp(
                -0.5 * value * value
            ):
                return value

    def normal(self, loc=0.0, scale=1.0):
        return loc + scale * self.standard_normal()

    def choice(self, of, p=None):
        items = range(of) if isinstance(of, int) else list(of)
        if p is None:
            return items[self._below(len(items))]
        sums, total = [], 0.0
        for share in p:
            total += share
            sums.append(total)
        drawn = self.random()
        return items[next(place for place, each in enumerate(sums) if drawn < each / total)]

    def permutation(self, of):
        items = list(range(of)) if isinstance(of, int) else list(of)
        for place in range(len(items) - 1, 0, -1):
            mask = (1 << place.bit_length()) - 1
            while (other := self._next32() & mask) > place:
                pass
            items[place], items[other] = items[other], items[place]
        return items


def default_rng(entropy):
    return Generator(entropy)
