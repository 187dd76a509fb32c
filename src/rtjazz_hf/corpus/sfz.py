"""SFZ mappings, read as far as a renderer that must give the same sound twice has to change them.

sfizz chooses between round robins by a counter and between random layers by dice, and neither can be seeded; it leaves
out, without a word, keys whose samples are missing. So a mapping is read here, flattened, and written anew: every
region with all that it inherits, samples by their whole paths, choices made by controllers that the renderer sets.
The format: sfzformat.com; headers nest as global, master, group, region.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

_TOKEN = re.compile(r"<(\w+)>|([\w$]+)=")
_DEFINE = re.compile(r"#define\s+(\$\w+)\s+(\S+)")
_INCLUDE = re.compile(r'#include\s+"([^"]+)"')
_NEST = ("global", "master", "group", "region")
_CONTROLLERS = range(102, 120)  # of MIDI's that mean nothing
_DEEPEST = 16  # files that include one another

# Left out of regions: they would be drawn by dice of sfizz's own, or stand against what the renderer does.
_DROPPED = re.compile(
    r"(amp|pitch|offset|delay|fil2?)_random|lorand|hirand|seq_length|seq_position|bend_?(up|down|step|smooth)"
)


class SfzError(ValueError):
    """An SFZ file, or what it names, cannot be used; the message says which and why."""


@dataclass(frozen=True)
class Region:
    """One region with all that it inherits.

    Attributes:
        opcodes: names and values as written. sample: its file; None for a generator of sfizz's own ("*sine").
    """

    opcodes: dict[str, str]
    sample: Path | None

    @property
    def robin(self) -> tuple[int, int]:
        """Its place among round robins, from 1, and how many there are."""
        return self._whole("seq_position", 1), self._whole("seq_length", 1)

    @property
    def dice(self) -> tuple[float, float]:
        """Which part of the dice, 0 to 1, lets it sound."""
        low, high = (self._number(name, rest) for name, rest in (("lorand", 0.0), ("hirand", 1.0)))
        return low, high

    def _number(self, name: str, rest: float) -> float:
        value = self.opcodes.get(name, "")
        try:
            return float(value) if value else rest
        except ValueError:
            raise SfzError(f"{name}={value} is no number") from None

    def _whole(self, name: str, rest: int) -> int:
        return max(1, int(self._number(name, rest)))


@dataclass
class Mapping:
    """What an SFZ file says.

    Attributes:
        regions: in order. control: opcodes of its control headers, paths aside. rest: its curves and effects as text.
    """

    path: Path
    regions: list[Region] = field(default_factory=list)
    control: dict[str, str] = field(default_factory=dict)
    rest: list[str] = field(default_factory=list)

    @property
    def samples(self) -> list[Path]:
        """Every sample file once, in order."""
        return list(dict.fromkeys(region.sample for region in self.regions if region.sample is not None))

    def controllers(self) -> tuple[dict[int, int], int]:
        """Controllers that the mapping does not speak of: one for the round robins of each length, one for dice."""
        used = {
            int(number)
            for opcodes in (self.control, *(region.opcodes for region in self.regions))
            for name in opcodes
            for number in re.findall(r"cc(\d+)", name)
        }
        lengths = sorted({region.robin[1] for region in self.regions} - {1})
        free = [number for number in _CONTROLLERS if number not in used]
        if len(free) <= len(lengths):
            raise SfzError(
                f"'{self.path}' leaves {len(free)} of controllers {_CONTROLLERS[0]} to {_CONTROLLERS[-1]} free; its "
                f"round robins want {len(lengths) + 1}"
            )
        return dict(zip(lengths, free[1:])), free[0]

    def rewritten(self, wheel_range: int, offsets: dict[int, int] | None = None) -> str:
        """The flat mapping: samples in memory, a wheel of `wheel_range` semitones each way, choices by
        `controllers`. `offsets`: samples (of the file's rate) to skip, by index of region."""
        robins, dice = self.controllers()
        # Without hint_ram_based sfizz reads on in a thread of its own, and a quick renderer gets stumps of notes.
        lines = [" ".join(["<control> hint_ram_based=1", *(f"{k}={v}" for k, v in self.control.items())])]
        for index, region in enumerate(self.regions):
            opcodes = {k: v for k, v in region.opcodes.items() if k != "sample" and not _DROPPED.fullmatch(k)}
            opcodes |= {"bend_up": str(100 * wheel_range), "bend_down": str(-100 * wheel_range)}
            if skip := (offsets or {}).get(index):
                opcodes["offset"] = str(int(float(opcodes.get("offset", 0))) + skip)
            place, count = region.robin
            if count > 1:
                opcodes |= {f"locc{robins[count]}": str(place), f"hicc{robins[count]}": str(place)}
            low, high = region.dice
            if (low, high) != (0.0, 1.0):
                opcodes |= {f"locc{dice}": str(round(127 * low)), f"hicc{dice}": str(round(127 * high) - (high < 1))}
            sample = region.opcodes.get("sample", "") if region.sample is None else str(region.sample)
            lines.append(" ".join(["<region>", *(f"{k}={v}" for k, v in opcodes.items()), f"sample={sample}"]))
        return "\n".join([*lines, *self.rest]) + "\n"


def read_sfz(path: Path) -> Mapping:
    """Read a mapping, the files that it includes too.

    Raises:
        SfzError: the file cannot be read, or includes one that cannot, or has no region.
    """
    mapping = Mapping(path)
    above: dict[str, dict[str, str]] = {name: {} for name in _NEST}
    header, folder = "", ""
    pending: list[tuple[dict[str, str], str]] = []  # opcodes of a region, default path
    for token in _tokens(_text(path, path.parent, {}, 0)):
        if token[0] == "<":
            header = token[1]
            if header in _NEST:
                for name in _NEST[_NEST.index(header) :]:
                    above[name] = {}
            if header == "region":
                pending.append(({**above["global"], **above["master"], **above["group"]}, folder))
            elif header in ("curve", "effect"):
                mapping.rest.append(f"<{header}>")
            continue
        _, name, value = token
        if header == "region":
            pending[-1][0][name] = value
        elif header in _NEST:
            above[header][name] = value
        elif header == "control" and name == "default_path":
            folder = value
        elif header == "control":
            mapping.control[name] = value
        elif header in ("curve", "effect"):
            mapping.rest[-1] += f" {name}={value}"
    mapping.control.pop("hint_ram_based", None)
    for opcodes, below in pending:
        sample = opcodes.get("sample")
        if not sample:
            continue  # sfizz has nothing to play there either
        file = None if sample.startswith("*") else path.parent / (below + sample).replace("\\", "/")
        mapping.regions.append(Region(opcodes, file))
    if not mapping.regions:
        raise SfzError(f"'{path}' has no region with a sample")
    return mapping


def _text(path: Path, root: Path, defined: dict[str, str], depth: int) -> str:
    """The text of a file without comments, definitions and inclusions replaced. Paths of inclusions are of `root`."""
    if depth > _DEEPEST:
        raise SfzError(f"'{path}' is included by itself")
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise SfzError(f"'{path}' cannot be read ({error.strerror or error})") from error
    text = re.sub(r"/\*.*?\*/", " ", text, flags=re.DOTALL)
    lines = []
    for line in text.splitlines():
        line = re.sub(r"(^|\s)//.*", "", line)
        if found := _INCLUDE.search(line):
            lines.append(_text(root / _filled(found[1], defined).replace("\\", "/"), root, defined, depth + 1))
            continue
        for name, value in _DEFINE.findall(line):
            defined[name] = value
        lines.append(_filled(_DEFINE.sub("", line), defined))
    return "\n".join(lines)


def _filled(text: str, defined: dict[str, str]) -> str:
    for name in sorted(defined, key=len, reverse=True) if "$" in text else ():
        text = text.replace(name, defined[name])
    return text


def _tokens(text: str):
    """("<", header) and ("=", opcode, value), in order; a value goes up to the next of them or the end of its line."""
    for line in text.splitlines():
        found = list(_TOKEN.finditer(line))
        for match, following in zip(found, [*found[1:], None]):
            if match[1]:
                yield "<", match[1].lower()
            else:
                end = len(line) if following is None else following.start()
                yield "=", match[2].lower(), line[match.end() : end].strip()


__all__ = ["Mapping", "Region", "SfzError", "read_sfz"]
