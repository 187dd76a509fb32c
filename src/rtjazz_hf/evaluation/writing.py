"""The report as text: a table for the terminal, a Markdown page, JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rtjazz_hf.runtime.files import whole_or_not_at_all


def verdict(what: str, asked: str, measured: str, ok: bool | None) -> dict[str, Any]:
    """A row of the table of what is asked and what was measured; `ok` is None where nothing is asked."""
    return {"what": what, "asked": asked, "measured": measured, "ok": None if ok is None else bool(ok)}


def to_table(rows: list[dict[str, Any]]) -> str:
    """The rows as aligned text for a terminal."""
    marks = {True: "ok", False: "MISSED", None: "-"}
    cells = [(row["what"], row["asked"], row["measured"], marks[row["ok"]]) for row in rows]
    return to_columns(("what", "asked", "measured", ""), cells)


def to_columns(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Cells as aligned text for a terminal."""
    cells = [header, *rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(header))]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(line, widths)).rstrip() for line in cells
    )


def to_markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Cells as the lines of a Markdown table."""
    return [f"| {' | '.join(line)} |" for line in (header, ["---"] * len(header), *rows)]


def verdicts_to_markdown(rows: list[dict[str, Any]]) -> list[str]:
    """Rows of what, asked, measured, ok as the lines of a Markdown table."""
    marks = {True: "met", False: "**missed**", None: "-"}
    cells = [(row["what"], row["asked"], row["measured"], marks[row["ok"]]) for row in rows]
    return to_markdown_table(("what", "asked", "measured", ""), cells)


def to_markdown(report: dict[str, Any]) -> str:
    """The report as a Markdown page: settings, the table, reference rows, the parts' own tables, pictures."""
    settings = report["settings"]
    lines = ["# Evaluation", "", ", ".join(f"{key}: {value}" for key, value in settings.items()), ""]
    lines += verdicts_to_markdown(report["table"])
    if references := report["references"]:
        lines += ["", "## Beside what is known", "", *references_to_markdown(references)]
    for part in report["settings"]["parts"].split():
        for table in report[part].get("tables", ()):
            lines += ["", f"## {table['title']}", "", *to_markdown_table(table["header"], table["rows"])]
    for name in report["pictures"]:
        lines += ["", f"![{Path(name).stem}]({name})"]
    lines += ["", f"Measured in {report['wall_seconds']:.0f} s."]
    return "\n".join(lines) + "\n"


def references_to_markdown(references: dict[str, dict[str, float]]) -> list[str]:
    """Measures down, kinds of clips across."""
    kinds = list(dict.fromkeys(kind for values in references.values() for kind in values))
    rows = [
        [measure, *(f"{values[kind]:.3g}" if values.get(kind) is not None else "-" for kind in kinds)]
        for measure, values in references.items()
    ]
    return to_markdown_table(["", *(kind.replace("_", " ") for kind in kinds)], rows)


def to_plain(value: Any) -> Any:
    """JSON's types; NaN and infinity become None."""
    if isinstance(value, dict):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [to_plain(item) for item in value]
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    if isinstance(value, (int, np.integer)):
        return int(value)
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    return value


def write_text(path: Path, text: str) -> None:
    """Write the file whole or not at all."""
    with whole_or_not_at_all(path) as partial:
        partial.write_text(text, encoding="utf-8")
