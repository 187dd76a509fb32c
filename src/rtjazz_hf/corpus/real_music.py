"""Recorded music under free licences, for training and judging the codec: from Debian's game packages.

Each package is fetched with `apt-get download` and unpacked with `dpkg-deb` into a temporary folder: nothing is
installed and no administrator is needed. Its music becomes 48 kHz stereo FLAC beside a copy of its licences.

The music belongs to its authors, who allow its use and its changing under the licences named here, some on the
condition that their names are told and that copies keep the licence. It is for training on this machine: neither
the package nor a model made with it holds any of it, and what is prepared here is not to be passed on.

Which music is used, and under what, was read from each package's /usr/share/doc/PACKAGE/copyright in Debian 12.
There is no jazz recording among it: it widens what the codec can carry, and is no example of style.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from ..audio import AUDIO_CHANNELS, read_audio, write_audio
from ..runtime.files import atomic_folder, whole_or_not_at_all
from .augment import limit_peak

TABLE = "real.jsonl"
FOLDER = "real"
TEST_MINUTES = 10.0  # of each package that is held out
MIN_TRACK_S = 20.0  # shorter files are jingles and effects
MIN_RATE = 44_100
MIN_KBPS = 80  # below it, lossy coding has taken what a codec should learn to keep
_SILENCE = 1e-3
_DONE = "tracks.json"


@dataclass(frozen=True)
class RealPackage:
    """A Debian package with music.

    Attributes:
        name: of the package. licence: of the music that is used, as its copyright file says.
        author: whom to name where a file's own tags do not. kind: of music, in a word or two.
        files: patterns of its music from the root of the package. exclude: names of files not to use.
        minutes: how much usable music it has, about. split: "train" or "test"; a package is in one only.
    """

    name: str
    licence: str
    author: str
    kind: str
    files: tuple[str, ...]
    minutes: float
    split: str = "train"
    exclude: tuple[str, ...] = ()


_GAMES = "usr/share/games"
_FRETS = (f"{_GAMES}/fretsonfire/data/songs/*/*/*.ogg",)
PACKAGES = (
    RealPackage("singularity-music", "CC-BY-SA-3.0", "Max McCracken", "ambient electronics",
                (f"{_GAMES}/singularity/music/**/*.ogg",), 64.1),
    RealPackage("blobwars-data", "CC-BY-SA-3.0, CC-BY-3.0", "DJ Sjors, Ambick, SinQ", "electronics",
                (f"{_GAMES}/blobwars/music/*",), 76.5, exclude=("*.tags",)),
    RealPackage("marsshooter-data", "CC-BY-SA-3.0", "Obsidian Shell", "rock band with singing",
                (f"{_GAMES}/marsshooter/audio/music/*.ogg", f"{_GAMES}/marsshooter/audio/menu.ogg",
                 f"{_GAMES}/marsshooter/audio/tutorial.ogg"), 59.0),
    RealPackage("colobot-common-sounds", "GPL-3+", "Daniel Roux, EPSITEC SA & TerranovaTeam", "rock, electronics",
                (f"{_GAMES}/colobot/music/*.ogg",), 60.0),
    RealPackage("pushover-data", "GPL-3+", "Roberto Lorenz", "orchestra, folk, electronics",
                ("usr/share/pushover/themes/*.ogg",), 31.1),
    RealPackage("extremetuxracer-data", "GPL-2+", "Extreme Tux Racer Team", "pop band",
                (f"{_GAMES}/etr/music/*.ogg",), 8.7),
    RealPackage("fretsonfire-songs-sectoid", "MIT", "Carlos Viola Iborra", "metal band; guitar alone",
                _FRETS, 27.1),
    RealPackage("trackballs-data", "GPL-2+", "Dietrich Radel, Marco Göbel, Attila Boros", "electronics",
                # the others are under the Ethymonics Free Music License, which does not allow changes
                (f"{_GAMES}/trackballs/music/tb_*.ogg",), 25.1),
    RealPackage("flare-game", "CC-BY-SA-3.0+", "Clint Bellanger and others", "orchestra",
                (f"{_GAMES}/flare/mods/fantasycore/music/*.ogg",), 36.8),
    RealPackage("xmoto-data", "GPL-2+", "X-Moto Development Team", "rock", (f"{_GAMES}/xmoto/Textures/Musics/*.ogg",),
                11.6),
    RealPackage("warmux-data", "GPL-2+", "WarMUX contributors", "acoustic, pop",
                (f"{_GAMES}/warmux/music/**/*.ogg",), 26.8),
    RealPackage("wesnoth-1.16-music", "GPL-2+", "The Battle for Wesnoth contributors", "orchestra",
                (f"{_GAMES}/wesnoth/1.16/data/core/music/*.ogg",), 123.3),
    RealPackage("hyperrogue-music", "CC-BY-SA-3.0", "Shawn Parrotte, Lincoln Domina, Will Savino",
                "orchestra, chimes", ("usr/share/hyperrogue/music/*.ogg",), 23.3, split="test"),
    RealPackage("fretsonfire-songs-muldjord", "CC-BY-SA-3.0", "El Senator (Muldjord)",
                "metal band with voice; guitar alone", _FRETS, 26.6, split="test"),
    RealPackage("frozen-bubble-data", "GPL-2", "The Frozen-Bubble Team", "dance electronics",
                (f"{_GAMES}/frozen-bubble/snd/*zik*.ogg",), 6.3, split="test"),
)  # fmt: skip

# Looked at, and not used.
REFUSED = {
    "drascula-music": "its licence does not allow selling the game by itself",
    "btanks-data": "a licence of its own; 22 kHz",
    "hedgewars-data": "the copyright file does not speak of the music, some of which comes from elsewhere",
    "starfighter-data": "music from OpenGameArt, whose licences the copyright file does not name",
    "supertux-data": "the copyright file names one author of the music, the files name many",
    "lordsawar-data": "holds music from elsewhere that the copyright file does not name",
    "asc-music": "22 kHz",
    "lugaru-data": "22 kHz",
    "warzone2100-music": "coded at 48 kbit/s: too lossy",
    "planetblupi-music-ogg": "coded at 64 kbit/s: too lossy",
}


class RealMusicUnavailable(RuntimeError):
    """apt, the network or a package is missing; the message says what to do."""


@dataclass(frozen=True)
class RealRecording:
    """One prepared recording: 48 kHz stereo FLAC at `path`, `duration` in seconds, `licence` of the music."""

    path: Path
    package: str
    licence: str
    split: str
    duration: float
    title: str
    author: str


def load_real_music(folder: str | os.PathLike, split: str | None = None) -> list[RealRecording]:
    """The recordings that `prepare_real_music` made in `folder`, in order; those whose file is gone are left out.

    Args:
        split: "train", "test" (whole packages are held out), or None for both.

    Raises:
        FileNotFoundError: where `folder` holds no table of recordings.
        ValueError: for an unknown split, or a table that cannot be read.
    """
    if split not in (None, "train", "test"):
        raise ValueError(f"unknown split {split!r}: choose train, test or None")
    table = Path(folder) / TABLE
    if not table.is_file():
        raise FileNotFoundError(
            f"'{folder}' holds no recorded music ({TABLE}); make some: "
            f"python training/prepare_corpus.py --real --out {folder}"
        )
    recordings = []
    for number, line in enumerate(table.read_text().splitlines(), 1):
        try:
            row = json.loads(line)
            names = ("package", "licence", "split", "duration", "title", "author")
            recording = RealRecording(Path(folder) / row["file"], **{name: row[name] for name in names})
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"'{table}', line {number}, cannot be read ({error}); prepare it again"
            ) from error
        if split in (None, recording.split) and recording.path.is_file():
            recordings.append(recording)
    return recordings


def prepare_real_music(
    out: str | os.PathLike,
    hours: float = 4.0,
    packages: Sequence[RealPackage] = PACKAGES,
    fetch: Callable[[str, Path], str] | None = None,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Make what is missing of `out/real/PACKAGE/*.flac` and the table `out/real.jsonl`; a summary.

    Every training package gives about as much as any other, so none of them dominates, and within a package
    every track: its middle. Packages that are held out give up to 10 minutes each. A package that is there with
    the same share is kept as it is, so an interrupted run goes on where it stopped.

    Args:
        hours: of training music, about; less where the packages have no more.
        packages: from which packages.
        fetch: `fetch(name, folder)` unpacks a package into `folder` and returns its version; by default from
            Debian's archive, keeping what was downloaded in `out/.packages`.
        say: told of each package, and of each file that is left out because it cannot be read.

    Raises:
        RealMusicUnavailable: without apt or the network, or where no package can be had.
        ValueError: for `hours` that are not a positive number.
    """
    if not 0 < hours < 1000:
        raise ValueError(f"hours of recorded music {hours!r}: choose more than 0 and less than 1000")
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise ValueError(f"the output '{out}' is a file; give a folder")
    if fetch is None:
        _check_programs()
        cache = out / ".packages"

        def fetch(name: str, folder: Path) -> str:
            return fetch_package(name, folder, cache)

    share = level([package.minutes for package in packages if package.split == "train"], 60 * hours)
    missing: dict[str, str] = {}
    for package in packages:
        minutes = round(share if package.split == "train" else TEST_MINUTES, 2)
        if _done(out, package, minutes) is None:
            try:
                _prepare_package(out, package, minutes, fetch)
            except _PackageMissing as error:
                missing[package.name] = str(error)
                say(f"{package.name}: left out, {error}")
                continue
        done = _done(out, package, minutes)
        length = sum(row["duration"] for row in done["tracks"]) / 60
        say(
            f"{package.name} ({package.licence}; {package.split}): {len(done['tracks'])} tracks, {length:.1f} min"
        )
        for name, reason in done["skipped"].items():
            say(f"{package.name}: skipped {name}: {reason}")
    if len(missing) == len(packages):
        raise RealMusicUnavailable(
            f"no package of recorded music can be had ({next(iter(missing.values()), 'none was asked for')}); "
            "as administrator, run: apt-get update"
        )
    return {**_write_table(out), "missing_packages": sorted(missing)}


def fetch_package(name: str, folder: Path, cache: Path) -> str:
    """Download a Debian package into `cache`, unless it is there, and unpack it into `folder`; its version.

    Raises:
        RealMusicUnavailable: where apt cannot download.
    """
    files = sorted(cache.glob(f"{name}_*.deb"))
    if not files:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as place:
            done = _run(["apt-get", "download", name], place)
            files = sorted(Path(place).glob("*.deb"))
            if done.returncode or not files:
                reason = _last_line(done.stderr)
                if "Unable to locate package" in reason or "No packages found" in reason:
                    raise _PackageMissing("apt does not know it in this release of the system")
                raise RealMusicUnavailable(
                    f"apt-get download {name} failed ({reason}). Recorded music needs Debian or Ubuntu and the "
                    "network; the same command goes on where it stopped."
                )
            files = [Path(shutil.move(files[0], cache / files[0].name))]
    done = _run(["dpkg-deb", "-x", str(files[-1].resolve()), str(folder.resolve())], cache)
    if done.returncode:
        files[-1].unlink()
        raise RealMusicUnavailable(
            f"'{files[-1].name}' cannot be unpacked ({_last_line(done.stderr)}); it was removed, start again"
        )
    return files[-1].stem.split("_")[1]


def level(amounts: Sequence[float], total: float) -> float:
    """The most that each may give so that all together give `total`: the smaller ones give all they have."""
    left, waiting = total, len(amounts)
    for amount in sorted(amounts):
        if amount * waiting >= left:
            return left / waiting
        left, waiting = left - amount, waiting - 1
    return max(amounts, default=0.0)


class _PackageMissing(Exception):
    """A package is not to be had here; the others are made without it."""


def _prepare_package(
    out: Path, package: RealPackage, minutes: float, fetch: Callable[[str, Path], str]
) -> None:
    """Write the folder of a package, whole or not at all."""
    with (
        tempfile.TemporaryDirectory(prefix="rtjazz-") as place,
        atomic_folder(_folder(out, package)) as folder,
    ):
        root = Path(place)
        version = fetch(package.name, root)
        tracks, skipped = _find_tracks(root, package)
        seconds = level([duration for _, duration in tracks], 60 * minutes)
        rows = []
        for path, duration in tracks:
            source = str(path.relative_to(root))
            try:
                length = min(seconds, duration)
                start = (duration - length) / 2
                audio = read_audio(path, start, length)
            except (OSError, ValueError) as error:
                skipped[source] = str(error)
                continue
            if np.abs(audio).max() < _SILENCE:
                skipped[source] = "silent"
                continue
            name = f"{len(rows):03d}-{re.sub(r'[^a-z0-9]+', '-', path.stem.lower()).strip('-')[:40]}.flac"
            write_audio(folder / name, limit_peak(audio))  # a lossy file may swing beyond 1
            tags = _tags(path)
            rows.append(
                {
                    "file": f"{FOLDER}/{package.name}/{name}",
                    "package": package.name,
                    "version": version,
                    "licence": package.licence,
                    "split": package.split,
                    "duration": round(audio.shape[1] / 48_000, 6),
                    "title": tags.get("title") or path.stem,
                    "author": tags.get("artist") or package.author,
                    "source": source,
                    "start": round(start, 3),
                }
            )
        if not rows:
            raise _PackageMissing(f"no track of it is of use ({len(skipped)} cannot be read)")
        copyright_file = root / "usr/share/doc" / package.name / "copyright"
        if copyright_file.is_file():
            shutil.copyfile(copyright_file, folder / "copyright")
        (folder / _DONE).write_text(
            json.dumps({"minutes": minutes, "tracks": rows, "skipped": skipped}, indent=1)
        )


def _find_tracks(root: Path, package: RealPackage) -> tuple[list[tuple[Path, float]], dict[str, str]]:
    """(file, seconds) of every track of use, in order of names, and why files that should be one are not."""
    found = sorted({path for pattern in package.files for path in root.glob(pattern)})
    tracks, skipped = [], {}
    for path in found:
        if not path.is_file() or path.is_symlink() or any(path.match(name) for name in package.exclude):
            continue
        try:
            info = soundfile.info(path)
        except soundfile.LibsndfileError as error:
            skipped[str(path.relative_to(root))] = str(error)
            continue
        if info.duration < MIN_TRACK_S or info.channels != AUDIO_CHANNELS or info.samplerate < MIN_RATE:
            continue
        if path.stat().st_size * 8 / 1000 >= MIN_KBPS * info.duration or info.format in ("WAV", "FLAC"):
            tracks.append((path, info.duration))
    return tracks, skipped


def _tags(path: Path) -> dict[str, str]:
    with soundfile.SoundFile(path) as file:
        return {name: text.strip() for name, text in file.copy_metadata().items()}


def _folder(out: Path, package: RealPackage) -> Path:
    return out / FOLDER / package.name


def _done(out: Path, package: RealPackage, minutes: float) -> dict[str, Any] | None:
    """What was made of a package, if it was made with the same share."""
    try:
        done = json.loads((_folder(out, package) / _DONE).read_text())
    except (OSError, ValueError):
        return None
    return done if done.get("minutes") == minutes else None


def _write_table(out: Path) -> dict[str, Any]:
    """Write the table from the folders of all packages; a summary."""
    made = [json.loads(file.read_text()) for file in sorted((out / FOLDER).glob(f"*/{_DONE}"))]
    rows = [row for package in made for row in package["tracks"]]
    with whole_or_not_at_all(out / TABLE) as partial:
        partial.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def hours(split: str) -> float:
        return round(sum(row["duration"] for row in rows if row["split"] == split) / 3600, 3)

    skipped = sum(len(package["skipped"]) for package in made)
    return {
        "tracks": len(rows),
        "train_hours": hours("train"),
        "test_hours": hours("test"),
        "skipped": skipped,
    }


def _check_programs() -> None:
    for program in ("apt-get", "dpkg-deb"):
        if shutil.which(program) is None:
            raise RealMusicUnavailable(
                f"{program} is missing: recorded music comes from Debian's packages and needs Debian or Ubuntu. "
                "A folder of your own recordings can be given to the training instead."
            )


def _run(command: list[str], folder: str | os.PathLike) -> subprocess.CompletedProcess:
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"}
    )


def _last_line(text: str) -> str:
    """The last error of apt or dpkg."""

    def errors() -> Iterator[str]:
        for line in text.splitlines():
            if line.strip() and not line.startswith("W:"):
                yield line.removeprefix("E:").strip()

    return list(errors())[-1] if list(errors()) else "no reason given"
