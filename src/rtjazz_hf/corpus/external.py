"""Music from elsewhere as one `datasets` dataset: the Free Music Archive, MusicCaps, a folder of recordings.

FMA (Defferrard et al., 2017, arXiv:1612.01840): its tables `fma_metadata/tracks.csv` and `genres.csv` beside folders
such as `fma_large/000/000002.mp3`, or a copy of it on the Hub, whose rows hold the sound. MusicCaps (Agostinelli et
al., 2023, arXiv:2301.11325): `musiccaps-public.csv`, or its copy on the Hub; the sound is the user's to have, as files
named by `ytid`, `[ytid]` or `[ytid]-[start-end]`. All of them give rows of `features()`.

Two questions are kept apart: what is wanted (`Selection`: licences, jazz, words) and which file is of use
(`screening`).
"""

from __future__ import annotations

import ast
import hashlib
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ..music.tags import Tags, parse_tags
from ..runtime.sound_files import RECORDING_SUFFIXES
from .personal import find_recordings, other_files

SOURCES = ("fma", "musiccaps", "folder")
SPLITS = ("train", "validation", "test")
# What may be used for anything and changed: the default for FMA, whose tracks say what they allow.
FREE_LICENCES = ("public-domain", "by", "by-sa")
LICENCES = (*FREE_LICENCES, "by-nc", "by-nc-sa", "by-nd", "by-nc-nd", "other", "unstated")
FMA_SUBSETS = ("small", "medium", "large", "full")
FMA_COLUMNS = (("artist", "name"), ("track", "genre_top"), ("track", "genres_all"), ("track", "license"),
               ("track", "tags"), ("track", "title"), ("set", "subset"))  # fmt: skip
FMA_HUB_COLUMNS = ("audio", "title", "artist", "genres", "license")
MUSICCAPS_COLUMNS = ("ytid", "start_s", "end_s", "audioset_positive_labels", "aspect_list", "caption", "author_id",
                     "is_balanced_subset", "is_audioset_eval")  # fmt: skip
_GENRE_COLUMNS = ("genre_id", "parent", "title", "top_level")
_CLIP = re.compile(r"\[?(?P<ytid>[\w-]{11})\]?(?:-\[?(?P<start>\d+(?:\.\d+)?)-(?P<end>\d+(?:\.\d+)?)\]?)?")
_JAZZ = re.compile(
    r"\b(?:jazz\w*|be-?bop|hard[\s-]?bop|post[\s-]?bop|bossa(?:[\s-]nova)?|big[\s-]band|swing(?:ing)?|dixieland|ragtime|"
    r"gypsy swing|walking bass)\b",
    re.IGNORECASE,
)


class WrongSchema(ValueError):
    """What was given is not the data set that it is said to be; the message names what is missing."""


def features() -> Any:
    """The columns of every data set here.

    id: unique and fit for a file name. audio: {"bytes", "path"} of the file, not decoded, one of them null; where
    torchcodec is installed, `cast_column("audio", datasets.Audio())` lets `datasets` decode it. start, end: seconds of
    the file that are meant, null for all of it. artist: or null. split: by the artist (`split_by`). caption, captions:
    words for it. genres: as the data set calls them. jazz: whether genre or words say so. mood, tempo (beats per
    minute), key, instruments, style: what the words tell, in this package's terms; null where they do not, and then
    tempo and key are heard. licence: one of `LICENCES`; licence_text: as it was written.
    """
    datasets = _datasets()
    text, number, words = (
        datasets.Value("string"),
        datasets.Value("float64"),
        datasets.List(datasets.Value("string")),
    )
    return datasets.Features(
        {
            # What Audio(decode=False) is stored as: that type itself cannot be written without torchcodec.
            "audio": {"bytes": datasets.Value("binary"), "path": text},
            "id": text, "source": text, "start": number, "end": number,
            "title": text, "artist": text, "split": text, "caption": text, "captions": words, "genres": words,
            "jazz": datasets.Value("bool"), "mood": text, "tempo": number, "key": text, "instruments": words,
            "style": text, "licence": text, "licence_text": text,
        }
    )  # fmt: skip


def load_external(
    dataset: str,
    source: str | os.PathLike,
    audio: str | os.PathLike | None = None,
    streaming: bool = False,
    subset: str | None = None,
) -> Any:
    """A data set from elsewhere, as a `datasets.Dataset` or (`streaming`) `IterableDataset` of `features()`.

    Args:
        dataset: one of `SOURCES`.
        source: a folder, a table in it, or for FMA and MusicCaps a Hub id or a folder of Parquet files in the Hub
            copy's columns.
        audio: where the sound is, if not below `source`.
        streaming: rows as they are asked for: for what does not fit the disk.
        subset: of FMA's tables: small, medium, large or full; by default that of the folder's name, such as fma_large.

    Raises:
        FileNotFoundError: nothing is there. WrongSchema: columns are missing: which, and which are expected.
    """
    if dataset not in SOURCES:
        raise ValueError(f"unknown data set {dataset!r}: choose {', '.join(SOURCES)}")
    if subset is not None and subset not in FMA_SUBSETS:
        raise ValueError(f"unknown subset {subset!r}: choose {', '.join(FMA_SUBSETS)}")
    if dataset == "folder":
        return _as_dataset(_folder_rows(Path(source)), streaming)
    table = _find_table(dataset, Path(source))
    if table is None:
        return _hub_dataset(dataset, str(source), audio, streaming)
    audio = Path(audio or (source if Path(source).is_dir() else table.parent))
    if dataset == "fma":
        return _as_dataset(_fma_rows(table, audio, subset), streaming)
    return _as_dataset(_musiccaps_rows(_read_table(table), audio), streaming)


def passed_over(dataset: str, source: str | os.PathLike, audio: str | os.PathLike | None = None) -> list[Path]:
    """The files that lie with the sound of `load_external` and are in none of its rows, because of their names; of
    FMA, whose folders hold nothing else, none."""
    folder = Path(audio or source)
    folder = folder.parent if folder.is_file() else folder
    if dataset == "fma" or not folder.is_dir():
        return []
    unnamed = [] if dataset == "folder" else [path for path in find_recordings(folder) if not _clip_name(path)]
    return [*unnamed, *(path for path in other_files(folder) if path.suffix not in (".csv", ".parquet"))]


@dataclass(frozen=True)
class Selection:
    """What is wanted of a data set: `dataset.filter(selection)`, or `why_not` for the reason.

    Attributes:
        licences: of `LICENCES`; None allows all. jazz: only what genre or words call jazz.
        words: only what has one of these words in its genres, captions, title or artist.
    """

    licences: tuple[str, ...] | None = None
    jazz: bool = False
    words: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.licences or ()) - set(LICENCES)):
            raise ValueError(f"unknown licence {unknown[0]!r}: choose of {', '.join(LICENCES)}")

    def why_not(self, row: Mapping[str, Any]) -> str | None:
        """ "licence", "not jazz", "words", or None for a row that is wanted."""
        if self.licences is not None and row["licence"] not in self.licences:
            return "licence"
        if self.jazz and not row["jazz"]:
            return "not jazz"
        said = " ".join([*row["genres"], *row["captions"], row["title"] or "", row["artist"] or ""]).lower()
        if self.words and not any(word.lower() in said for word in self.words):
            return "words"
        return None

    def __call__(self, row: Mapping[str, Any]) -> bool:
        return self.why_not(row) is None


def split_by(artist: str, validation: float = 0.05, test: float = 0.05) -> str:
    """ "train", "validation" or "test": the same for all that an artist has made, in every data set and order."""
    name = re.sub(r"\s+", " ", unicodedata.normalize("NFKC", artist)).strip().casefold()
    digest = hashlib.sha256(f"rtjazz artist {name}".encode()).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64
    return "test" if place < test else "validation" if place < test + validation else "train"


def licence_class(text: str | None) -> str:
    """One of `LICENCES` for what a data set writes: "Attribution-ShareAlike 3.0 International" is "by-sa"."""
    if not text or text.strip().lower() in ("nan", "none", "unknown"):
        return "unstated"
    said = re.sub(r"[\s_-]+", " ", text.lower())
    if re.search(r"public domain|\bcc ?0\b|zero", said):
        return "public-domain"
    parts = set(re.findall(r"\b(?:by|nc|nd|sa)\b", said))
    spoken = {"by": "attribution", "nc": "non ?commercial", "nd": "no ?deriv", "sa": "share ?alike"}
    parts |= {short for short, long in spoken.items() if re.search(long, said)}
    name = "-".join(part for part in ("by", "nc", "nd", "sa") if part in parts)
    return name if name in LICENCES else "other"


# --- rows -----------------------------------------------------------------------------------------


def _row(
    source: str,
    name: str,
    audio: Mapping[str, Any],
    *,
    artist: str | None = None,
    title: str | None = None,
    captions: Iterable[str] = (),
    genres: Iterable[str] = (),
    jazz: bool = False,
    licence: str | None = None,
    split: str | None = None,
    start: float | None = None,
    end: float | None = None,
) -> dict[str, Any]:
    captions, genres = list(dict.fromkeys(text for text in captions if text)), list(genres)
    said = ", ".join([*genres, *captions])
    tags = _tags(said)
    playing = [name for name in tags.instruments or () if not name.startswith("-")]
    return {
        "id": f"{source}-{name}", "source": source, "start": start, "end": end,
        "audio": {"path": audio.get("path"), "bytes": audio.get("bytes")},
        "title": title, "artist": artist, "split": split or split_by(artist or f"{source} {name}"),
        "caption": captions[0] if captions else "", "captions": captions, "genres": genres,
        "jazz": jazz or bool(_JAZZ.search(said)), "mood": tags.mood, "tempo": tags.tempo, "key": tags.key,
        "instruments": playing, "style": tags.genre, "licence": licence_class(licence), "licence_text": licence,
    }  # fmt: skip


def _tags(said: str) -> Tags:
    try:
        return parse_tags(said)
    except ValueError:  # a tempo that nobody plays, in somebody's words
        return parse_tags(re.sub(r"\d+", "", said))


def _folder_rows(folder: Path) -> Iterator[dict[str, Any]]:
    for path in find_recordings(folder):
        inside = path.relative_to(folder)
        stem = re.sub(r"[^\w-]+", "_", str(inside.with_suffix("")))[-80:]
        name = f"{stem}-{hashlib.sha256(str(inside).encode()).hexdigest()[:8]}"
        # A folder of folders is an artist's or an album's: what lies together is kept together.
        artist = inside.parts[0] if len(inside.parts) > 1 else None
        words = re.sub(r"[_/\\-]+", " ", str(inside.with_suffix("")))
        yield _row("folder", name, {"path": str(path)}, artist=artist, title=path.stem, captions=[words])


def _fma_rows(table: Path, audio: Path, subset: str | None) -> Iterator[dict[str, Any]]:
    pandas = _pandas()
    tracks = pandas.read_csv(table, index_col=0, header=[0, 1], low_memory=False)
    if missing := [column for column in FMA_COLUMNS if column not in tracks.columns]:
        raise WrongSchema(
            f"'{table}' is not FMA's tracks.csv: it lacks {', '.join('.'.join(name) for name in missing)}. Expected "
            f"are two rows of column names and one of 'track_id', with at least "
            f"{', '.join('.'.join(name) for name in FMA_COLUMNS)}."
        )
    genres = _fma_genres(table.with_name("genres.csv"))
    audio, found = _fma_audio(audio)
    subset = subset or found
    rank = {name: place for place, name in enumerate(FMA_SUBSETS)}
    if subset is not None:
        tracks = tracks[tracks["set", "subset"].map(lambda name: rank.get(name, 3) <= rank[subset])]
    columns = {name: tracks[name].tolist() for name in FMA_COLUMNS}
    for place, track in enumerate(tracks.index.astype(int)):
        value = {name[1]: _plain(column[place]) for name, column in columns.items()}
        known = [genres[number] for number in _literal(value["genres_all"]) if number in genres]
        titles = [title for title, _ in known]
        if value["genre_top"] and value["genre_top"] not in titles:
            titles.insert(0, value["genre_top"])
        name = f"{track:06d}"
        yield _row(
            "fma",
            name,
            {"path": str(audio / name[:3] / f"{name}.mp3")},
            artist=_plain(columns["artist", "name"][place]),
            title=value["title"],
            captions=[", ".join(titles).lower(), ", ".join(map(str, _literal(value["tags"]))).lower()],
            genres=titles,
            jazz="Jazz" in titles or any(top == "Jazz" for _, top in known),
            licence=value["license"],
        )


def _fma_genres(table: Path) -> dict[int, tuple[str, str]]:
    """Title, and title of the top genre, of each genre's number."""
    if not table.is_file():
        raise FileNotFoundError(f"there is no '{table}': FMA's genres.csv lies beside its tracks.csv.")
    rows = _pandas().read_csv(table)
    if missing := [name for name in _GENRE_COLUMNS if name not in rows.columns]:
        raise WrongSchema(
            f"'{table}' is not FMA's genres.csv: it lacks {', '.join(missing)}; expected are "
            f"{', '.join(_GENRE_COLUMNS)}."
        )
    titles = dict(zip(rows["genre_id"].astype(int), rows["title"].astype(str)))
    tops = zip(rows["genre_id"].astype(int), rows["top_level"].astype(int))
    return {number: (titles[number], titles.get(top, "")) for number, top in tops}


def _fma_audio(folder: Path) -> tuple[Path, str | None]:
    """The folder that holds 000/, 001/, ... and the subset that its name tells."""
    places = [
        folder,
        folder.parent,
        *(base / f"fma_{name}" for base in (folder, folder.parent) for name in FMA_SUBSETS[::-1]),
    ]
    for place in places:
        if any(
            part.is_dir() and re.fullmatch(r"\d{3}", part.name)
            for part in (place.iterdir() if place.is_dir() else ())
        ):
            name = place.name.removeprefix("fma_")
            return place, name if name in FMA_SUBSETS else None
    raise FileNotFoundError(
        f"no folder of FMA's sound was found near '{folder}': expected are folders of three digits, such as "
        "fma_large/000/000002.mp3; say where they are."
    )


def _musiccaps_rows(rows: Iterable[Mapping[str, Any]], audio: Path) -> Iterator[dict[str, Any]]:
    clips = _find_clips(audio)
    for row in rows:
        path, cut = clips.get(str(row["ytid"]), (None, False))
        where = (None, None) if cut else (float(row["start_s"]), float(row["end_s"]))
        yield _musiccaps_row(row, {"path": str(path or audio / f"{row['ytid']}.wav")}, *where)


def _musiccaps_row(
    row: Mapping[str, Any], audio: Mapping[str, Any], start: float | None = None, end: float | None = None
) -> dict[str, Any]:
    aspects = [str(word) for word in _literal(row["aspect_list"])]
    # The table names no artist, and a video is in it once. What others measure on is never trained on.
    split = "test" if str(row["is_audioset_eval"]).lower() in ("true", "1") else None
    captions = [str(row["caption"]).strip(), ", ".join(aspects)]
    return _row("musiccaps", str(row["ytid"]), audio, captions=captions, split=split, start=start, end=end)


def _clip_name(path: Path) -> re.Match[str] | None:
    return _CLIP.fullmatch(path.stem) if path.suffix.lower() in RECORDING_SUFFIXES else None


def _find_clips(folder: Path) -> dict[str, tuple[Path, bool]]:
    """Sound by ytid, and whether its name tells that it is the clip alone."""
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder '{folder}' of MusicCaps' sound.")
    clips: dict[str, tuple[Path, bool]] = {}
    for path in sorted(folder.rglob("*")):
        if match := _clip_name(path):
            clips.setdefault(match["ytid"], (path, match["start"] is not None))
    if not clips:
        raise FileNotFoundError(
            f"'{folder}' holds no clip of MusicCaps: the table has no sound. Expected are files named by their ytid or "
            f"[ytid]-[start-end], as {', '.join(suffix[1:] for suffix in RECORDING_SUFFIXES)}."
        )
    return clips


# --- tables and the Hub ---------------------------------------------------------------------------


def _find_table(dataset: str, source: Path) -> Path | None:
    if source.suffix == ".csv":
        if not source.is_file():
            raise FileNotFoundError(f"there is no table '{source}'.")
        return source
    if dataset == "fma" and re.fullmatch("fma_(?:small|medium|large|full)", source.name):
        source = source.parent  # the tables lie beside the sound
    names = {"fma": ("tracks.csv", "fma_metadata/tracks.csv"), "musiccaps": ("musiccaps-public.csv",)}[
        dataset
    ]
    for name in names:
        if (source / name).is_file():
            return source / name
    if source.is_dir() and not any(source.rglob("*.parquet")):
        raise FileNotFoundError(
            f"'{source}' holds neither {' nor '.join(names)} nor Parquet files of a Hub copy of {dataset}."
        )
    return None


def _read_table(table: Path) -> list[dict[str, Any]]:
    rows = _pandas().read_csv(table)
    _check_columns(str(table), rows.columns, MUSICCAPS_COLUMNS, "MusicCaps")
    return rows.to_dict("records")


def _check_columns(where: str, columns: Iterable[str], expected: Iterable[str], name: str) -> None:
    columns, expected = list(columns), list(expected)
    if missing := [column for column in expected if column not in columns]:
        raise WrongSchema(
            f"'{where}' is not {name}: it lacks {', '.join(missing)}. Expected are {', '.join(expected)}; it has "
            f"{', '.join(map(str, columns))}."
        )


def _hub_dataset(dataset: str, source: str, audio: str | os.PathLike | None, streaming: bool) -> Any:
    datasets = _datasets()
    parts = datasets.load_dataset(source, streaming=streaming)
    data = [parts[name] for name in sorted(parts)]
    columns = list(data[0].features)
    if dataset == "musiccaps" and "audio" not in columns:
        if audio is None:
            raise WrongSchema(f"'{source}' has no column audio: say in which folder the clips are.")
        _check_columns(source, columns, MUSICCAPS_COLUMNS, "MusicCaps")
        rows = (row for part in data for row in part)
        return _as_dataset(_musiccaps_rows(rows, Path(audio)), streaming)
    if dataset == "fma":
        _check_columns(source, columns, FMA_HUB_COLUMNS, "a Hub copy of FMA")
        convert = partial(_fma_hub_row, names=_class_names(data[0].features))
    else:
        _check_columns(source, columns, ("audio", *MUSICCAPS_COLUMNS), "MusicCaps with sound")
        convert = _musiccaps_hub_row
    data = [part.cast_column("audio", datasets.Audio(decode=False)) for part in data]
    mapped = [_map(part, convert, streaming) for part in data]
    return mapped[0] if len(mapped) == 1 else datasets.concatenate_datasets(mapped)


def _map(part: Any, convert: Callable[[Mapping[str, Any], int], dict[str, Any]], streaming: bool) -> Any:
    if streaming:
        return part.map(convert, with_indices=True, remove_columns=list(part.features), features=features())
    # The sound stays in the file that it is in: a map of it would write all of it anew.
    datasets, wanted = _datasets(), features()
    wanted.pop("audio")

    def words(row: Mapping[str, Any], index: int) -> dict[str, Any]:
        row = convert({**row, "audio": {}}, index)
        del row["audio"]
        return row

    silent = part.remove_columns("audio")
    told = silent.map(
        words, with_indices=True, remove_columns=silent.column_names, features=datasets.Features(wanted)
    )
    return datasets.concatenate_datasets([told, part.select_columns("audio")], axis=1).cast(features())


def _class_names(columns: Mapping[str, Any]) -> dict[str, list[str]]:
    """The names behind the numbers of a column of class labels, or of lists of them."""
    inner = {name: getattr(column, "feature", column) for name, column in columns.items()}
    return {name: column.names for name, column in inner.items() if hasattr(column, "names")}


def _fma_hub_row(row: Mapping[str, Any], index: int, names: dict[str, list[str]]) -> dict[str, Any]:
    def told(column: str, value: Any) -> str:
        return names[column][value] if column in names and isinstance(value, int) else str(value)

    genres = [told("genres", value) for value in row["genres"] or ()]
    licence = None if row["license"] is None else told("license", row["license"])
    page = re.sub(r"[^\w-]+", "_", str(row.get("url") or row["title"] or ""))[-48:]
    captions = [", ".join(genres).lower(), ", ".join(map(str, row.get("tags") or ())).lower()]
    return _row("fma", f"{index:06d}-{page}", row["audio"] or {}, artist=row["artist"], title=row["title"],
                captions=captions, genres=genres, licence=licence)  # fmt: skip


def _musiccaps_hub_row(row: Mapping[str, Any], index: int) -> dict[str, Any]:
    return _musiccaps_row(row, row["audio"] or {})


def _as_dataset(rows: Iterator[dict[str, Any]], streaming: bool) -> Any:
    # What a table tells fits into memory; it is the sound that does not, and that is read row by row in either way.
    told, kinds = list(rows), features()
    data = _datasets().Dataset.from_dict(
        {name: [row[name] for row in told] for name in kinds}, features=kinds
    )
    return data.to_iterable_dataset() if streaming else data


def _literal(value: Any) -> list[Any]:
    """A list that a table holds as Python writes it, or that is one already; empty if it is neither."""
    if isinstance(value, (list, tuple)):
        return list(value)
    try:
        found = ast.literal_eval(str(value))
    except (SyntaxError, ValueError):
        return []
    return list(found) if isinstance(found, (list, tuple)) else []


def _plain(value: Any) -> Any:
    return None if value is None or value != value else value  # pandas has NaN for what is not there


def _datasets() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise ImportError("datasets is not installed; run: pip install 'rtjazz-hf[corpus]'") from error
    return datasets


def _pandas() -> Any:
    _datasets()  # it brings pandas
    import pandas

    return pandas


__all__ = [
    "FREE_LICENCES", "LICENCES", "SOURCES", "SPLITS", "Selection", "WrongSchema", "features", "licence_class",
    "load_external", "split_by",
]  # fmt: skip
