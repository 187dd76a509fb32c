"""A blind listening test: a page to hand out, the key to keep, and the mean opinion scores of what comes back."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from rtjazz_hf.audio import SAMPLE_RATE, measure_loudness, resample, write_audio

from .writing import write_text

FORMAT = "rtjazz-listening-1"
KEY_NAME = "key.json"
PAGE_FOLDER = "page"
TARGET_LUFS = -23.0  # EBU R 128; louder clips would have to be limited
ANCHOR_HZ = 3500.0  # the low-pass of the low anchor in ITU-R BS.1534-3, section 5.1
_PEAK = 0.95
_LEAST_LUFS = -60.0  # silence is not made louder
SCALES = (
    {"name": "quality", "question": "How good is the sound?", "low": "bad", "high": "excellent"},
    {"name": "jazz", "question": "Is it good jazz?", "low": "not at all", "high": "like a good band"},
    {"name": "chart", "question": "Does it follow the chart and the tempo below the player?", "low": "not at all",
     "high": "entirely"},
)  # fmt: skip
_RESAMPLES = 2000


@dataclass(frozen=True)
class ListeningClip:
    """A clip to be rated.

    Attributes:
        kind: what it is (generated, held_out, ...); only the key tells. item: whose chart it has.
        audio: `(2, samples)` at 48 kHz. chart: as text. tempo: beats per minute.
    """

    kind: str
    item: str
    audio: np.ndarray
    chart: str
    tempo: float


# --- the kit --------------------------------------------------------------------------------------


def write_listening_test(
    clips: Sequence[ListeningClip],
    folder: str | os.PathLike,
    seed: int | None = None,
    notes: Mapping[str, Any] | None = None,
) -> Path:
    """Write a listening test: `page/index.html` with `page/clips/`, to hand out, and `key.json`, to keep.

    Clips get neutral names in random order, one length and one loudness (-23 LUFS, or less for all where a peak
    would not fit). The page works from a disk or any web server, asks for every clip in an order of the listener's
    own, and saves the ratings as a file; it sends nothing.

    Args:
        seed: of the order; a random one by default. notes: for the key, in JSON's types.

    Returns:
        The page.

    Raises:
        ValueError: no clips, or silent ones. FileExistsError: the folder holds a test already (its key would be lost).
    """
    folder = Path(folder)
    if not clips:
        raise ValueError("there are no clips to listen to.")
    if (folder / KEY_NAME).exists():
        raise FileExistsError(
            f"'{folder}' holds a listening test already; choose another folder, or its results would lose their key."
        )
    samples = min(clip.audio.shape[1] for clip in clips)
    gains, target = _matching_gains([clip.audio[:, :samples] for clip in clips])
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(clips))
    kit = secrets.token_hex(8) if seed is None else rng.bytes(8).hex()
    page = folder / PAGE_FOLDER
    (page / "clips").mkdir(parents=True, exist_ok=True)
    shown, key = [], {}
    for number, place in enumerate(order, 1):
        clip, name = clips[place], f"clip-{number:03d}"
        write_audio(page / "clips" / f"{name}.flac", gains[place] * clip.audio[:, :samples], overwrite=True)
        shown.append(
            {"name": name, "file": f"clips/{name}.flac", "chart": clip.chart, "tempo": f"{clip.tempo:.0f}"}
        )
        key[name] = {"kind": clip.kind, "item": clip.item}
    data = {"format": FORMAT, "kit": kit, "seconds": samples / SAMPLE_RATE, "scales": SCALES, "clips": shown}
    write_text(
        folder / KEY_NAME,
        json.dumps(
            {"format": FORMAT, "kit": kit, "scales": [scale["name"] for scale in SCALES], "clips": key,
             "loudness_lufs": target, "notes": dict(notes or {})}, indent=1
        ) + "\n",
    )  # fmt: skip
    write_text(page / "index.html", listening_page(data))
    return page / "index.html"


def listening_page(data: Mapping[str, Any]) -> str:
    """The page of a test as HTML; whatever stands in `data` stays text."""
    template = resources.files(__package__).joinpath("listening_page.html").read_text(encoding="utf-8")
    text = json.dumps(data, ensure_ascii=True)
    for (
        sign
    ) in "<>&":  # no "</script>" of a title ends the script; inside JSON's strings these are the same signs
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return template.replace("/*KIT*/", text)


def _matching_gains(clips: Sequence[np.ndarray]) -> tuple[list[float], float]:
    """What every clip is multiplied with to be as loud as the others, and how loud that is in LUFS."""
    loudness = [measure_loudness(clip) for clip in clips]
    if silent := [place for place, value in enumerate(loudness) if not value > _LEAST_LUFS]:
        raise ValueError(
            f"clips {', '.join(map(str, silent))} of the listening test are silent; leave them out."
        )
    room = [
        value + 20 * np.log10(_PEAK / max(float(np.abs(clip).max()), 1e-9))
        for clip, value in zip(clips, loudness)
    ]
    target = min(TARGET_LUFS, *room)
    return [10 ** ((target - value) / 20) for value in loudness], float(target)


def low_anchor(audio: np.ndarray) -> np.ndarray:
    """The sound of `(2, samples)` without what lies above 3.5 kHz: what listeners should rate low."""
    rate = round(2 * ANCHOR_HZ)
    return resample(resample(audio, SAMPLE_RATE, rate), rate, SAMPLE_RATE)[:, : audio.shape[1]]


# --- the scores -----------------------------------------------------------------------------------


def score_listening_test(
    results: Sequence[str | os.PathLike], key: str | os.PathLike, seed: int = 0
) -> dict[str, Any]:
    """Mean opinion scores of the files that listeners saved.

    The 95% intervals are bootstrapped (2,000 times, Efron and Tibshirani, 1993): listeners are drawn with replacement,
    and items within each draw, so that they hold for other listeners and other charts; with one listener, for other
    charts alone.

    Returns:
        listeners, ratings; scores: kind -> scale -> mean, low, high (the interval), ratings; warnings: listeners who
        rated the anchor's sound no lower than the held-out takes'. Their ratings are counted: leave their files out if
        you think that right.

    Raises:
        FileNotFoundError: a file that is not there.
        ValueError: a file that is no result, of another test, with clips or values that the key does not know, or of a
            listener who is there already. Nothing is scored then.
    """
    secret = _read_json(key, "key")
    if secret.get("format") != FORMAT or not isinstance(secret.get("clips"), dict):
        raise ValueError(
            f"'{key}' is no key of a listening test; it is the {KEY_NAME} beside the page's folder."
        )
    scales = list(secret["scales"])
    if not results:
        raise ValueError("there are no results to score; give the files that listeners saved.")
    listeners: dict[str, dict[str, dict[str, int]]] = {}
    files: dict[str, str] = {}
    for path in results:
        name, ratings = _read_result(path, secret)
        if name in files:
            raise ValueError(f"'{path}' and '{files[name]}' are of the same listener; give one of them.")
        files[name], listeners[name] = str(path), ratings
    items = sorted({clip["item"] for clip in secret["clips"].values()})
    kinds = sorted({clip["kind"] for clip in secret["clips"].values()})
    # (kinds, scales, listeners, items), NaN where somebody rated nothing
    table = np.full((len(kinds), len(scales), len(listeners), len(items)), np.nan)
    for row, ratings in enumerate(listeners.values()):
        for clip, values in ratings.items():
            known = secret["clips"][clip]
            for column, scale in enumerate(scales):
                table[kinds.index(known["kind"]), column, row, items.index(known["item"])] = values[scale]
    intervals = _intervals(table, seed)
    scores = {
        kind: {
            scale: {
                "mean": _mean(table[i, j]),
                "low": float(intervals[0, i, j]),
                "high": float(intervals[1, i, j]),
                "ratings": int(np.isfinite(table[i, j]).sum()),
            }
            for j, scale in enumerate(scales)
        }
        for i, kind in enumerate(kinds)
    }
    warnings = []
    if {"anchor", "held_out"} <= set(kinds):
        for row, name in enumerate(listeners):
            low, high = (_mean(table[kinds.index(kind), 0, row]) for kind in ("anchor", "held_out"))
            if low >= high:
                warnings.append(
                    f"{files[name]}: rated the anchor's {scales[0]} {low:.1f}, the held-out takes' {high:.1f}"
                )
    return {
        "listeners": len(listeners),
        "ratings": int(np.isfinite(table).any(1).sum()),
        "items": len(items),
        "scores": scores,
        "warnings": warnings,
    }


def _mean(values: np.ndarray) -> float:
    """Of what is there; NaN where nothing is."""
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else float("nan")


def scores_table(scores: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of what `score_listening_test` found."""
    kinds = scores["scores"]
    names = list(next(iter(kinds.values())))

    def show(score: Mapping[str, float]) -> str:
        return f"{score['mean']:.2f} ({score['low']:.2f}-{score['high']:.2f})"

    def best_first(kind: str) -> float:
        return -np.nan_to_num(kinds[kind][names[0]]["mean"])

    rows = [
        [
            kind.replace("_", " "),
            *(show(kinds[kind][name]) for name in names),
            str(kinds[kind][names[0]]["ratings"]),
        ]
        for kind in sorted(kinds, key=best_first)
    ]
    return ["kind", *(f"{name} (95%)" for name in names), "ratings"], rows


def _read_json(path: str | os.PathLike, what: str) -> dict[str, Any]:
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no {what} '{path}'.")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise ValueError(f"'{path}' is no {what} of a listening test ({error}).") from error
    if not isinstance(data, dict):
        raise ValueError(f"'{path}' is no {what} of a listening test.")
    return data


def _read_result(path: str | os.PathLike, key: Mapping[str, Any]) -> tuple[str, dict[str, dict[str, int]]]:
    """Listener and ratings of a file, every entry of which the key knows."""
    data = _read_json(path, "result")
    ratings, listener = data.get("ratings"), data.get("listener")
    if data.get("format") != FORMAT or not isinstance(ratings, dict) or not isinstance(listener, str):
        raise ValueError(f"'{path}' is no result of a listening test; it is what the page's button saves.")
    if data.get("kit") != key["kit"]:
        raise ValueError(f"'{path}' belongs to test {data.get('kit')!r}, the key to {key['kit']!r}.")
    if not ratings:
        raise ValueError(f"'{path}' holds no rating; leave it out.")
    for clip, values in ratings.items():
        if clip not in key["clips"]:
            raise ValueError(f"'{path}' rates {clip!r}, which the key does not know.")
        good = isinstance(values, dict) and set(values) == set(key["scales"])
        if not good or any(type(value) is not int or not 1 <= value <= 5 for value in values.values()):
            raise ValueError(
                f"'{path}' rates {clip!r} {values!r}; allowed is a whole number from 1 to 5 for each of "
                f"{', '.join(key['scales'])}."
            )
    return listener, ratings


def _intervals(table: np.ndarray, seed: int) -> np.ndarray:
    """2.5th and 97.5th percentiles of the mean over listeners and items, `(2, kinds, scales)`."""
    rng = np.random.default_rng(seed)
    _, _, listeners, items = table.shape
    means = []
    for _ in range(_RESAMPLES):
        who = rng.integers(listeners, size=listeners)
        what = rng.integers(items, size=items)
        drawn = table[:, :, who][..., what]
        known = np.isfinite(drawn)
        counts = known.sum((2, 3))
        sums = np.where(known, drawn, 0.0).sum((2, 3))
        means.append(np.where(counts > 0, sums / np.maximum(counts, 1), np.nan))
    means = np.array(means)
    result = np.full((2, *means.shape[1:]), np.nan)
    some = np.isfinite(means).any(0)
    result[:, some] = np.nanpercentile(means[:, some], [2.5, 97.5], axis=0)
    return result
