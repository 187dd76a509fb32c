"""Imports run one way: each room of the package knows the rooms before it in the order that CONTRIBUTING.md states,
types included."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from scripts import ROOT

import rtjazz_hf

SOURCE = ROOT / "src" / "rtjazz_hf"
FILES = sorted(path.relative_to(SOURCE) for path in SOURCE.rglob("*.py") if path != SOURCE / "__init__.py")


def stated_order() -> list[str]:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    line = re.search(r"^  `([^`]*< cli)`", text, re.MULTILINE)
    return re.split(r",\s*|\s*<\s*", line[1])


ORDER = stated_order()


def room_of(inside: str) -> str:
    """The room of a module by its path, or dotted name, inside the package."""
    first = re.split(r"[./]", inside)[0]
    return "pipeline" if first == "pipeline_realtime_jazz" else first


def imports(text: str, inside: Path) -> list[tuple[int, str]]:
    """Lines of a file at this place that import from the package, for types too, and the rooms that they name."""
    package = [SOURCE.name, *inside.parts[:-1]]
    found: list[tuple[int, str]] = []
    for node in ast.walk(ast.parse(text)):
        modules: list[str] = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level:
                module = ".".join([*package[: len(package) - node.level + 1], *filter(None, [module])])
            modules = [module]
            if module == SOURCE.name:  # from the package's face, each of whose names has its room
                names = [alias.name for alias in node.names if alias.name != "__version__"]
                modules = [f"{module}.{rtjazz_hf._HOME_OF.get(name, name)}" for name in names]
        found += [
            (node.lineno, room_of(m.split(".", 1)[1])) for m in modules if m.startswith(f"{SOURCE.name}.")
        ]
    return found


def test_every_room_has_its_place():
    rooms = {room_of(path.with_suffix("").as_posix()) for path in FILES}
    assert rooms <= set(ORDER) and len(set(ORDER)) == len(ORDER)


@pytest.mark.parametrize("room", ORDER)
def test_a_room_knows_those_before_it(room):
    known = ORDER[: ORDER.index(room) + 1]
    wrong = [
        f"{path}:{line} imports {other}"
        for path in FILES
        if room_of(path.with_suffix("").as_posix()) == room
        for line, other in imports((SOURCE / path).read_text(encoding="utf-8"), path)
        if other not in known
    ]
    assert not wrong, "\n".join(wrong)


def test_imports_lead_somewhere():
    """Those inside functions too, which nobody meets before they run."""
    missing = []
    for path in FILES:
        package = [SOURCE.name, *path.parts[:-1]]
        for node in ast.walk(ast.parse((SOURCE / path).read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level:
                module = [*package[: len(package) - node.level + 1], *(node.module or "").split(".")]
                home = SOURCE.joinpath(*filter(None, module[1:]))
                if node.level > len(package) or not (home.with_suffix(".py").is_file() or home.is_dir()):
                    missing.append(f"{path}:{node.lineno} imports {'.'.join(module)}")
    assert not missing, "\n".join(missing)


@pytest.mark.parametrize("way", [
    "from ..pipeline_realtime_jazz import RealTimeJazzPipeline", "from rtjazz_hf import RealTimeJazzPipeline",
    "from .. import pipeline_realtime_jazz", "import rtjazz_hf.pipeline_realtime_jazz",
])  # fmt: skip
def test_no_import_is_overlooked(way):
    assert imports(f"if TYPE_CHECKING:\n    {way}\n", Path("live/example.py")) == [(2, "pipeline")]
