"""FMA, MusicCaps and folders in their published layouts, read as rows of one kind."""

from __future__ import annotations

import pytest
from external_sources import BY, BY_NC, BY_SA, fma_path, sound, write, write_fma, write_musiccaps

pytest.importorskip("datasets")
import datasets

from rtjazz_hf.corpus.external import (
    FREE_LICENCES,
    Selection,
    WrongSchema,
    features,
    licence_class,
    load_external,
    passed_over,
    split_by,
)

TRACKS = [
    (2, "Anna Blue", "Jazz", [4, 181], BY),
    (3, " anna  BLUE", "Rock", [12], BY_NC),
    (5, "Ben", "", [2, 181], BY_SA),
    (10, "Ben", "Rock", [12], "nan"),
]
ASPECTS = "['smooth jazz', 'double bass', 'melancholic']"
CLIPS = [("-0Gj8-vB1q4", 30, ASPECTS, "A slow tune in D minor at 96 bpm.", False),
         ("0PvFzMFHkXs", 0, "['rock']", "Loud guitars.", True)]  # fmt: skip


@pytest.fixture(scope="module")
def fma(tmp_path_factory):
    root = write_fma(tmp_path_factory.mktemp("fma"), TRACKS)
    write(fma_path(root, 2), sound(2, 1.0))
    return root


@pytest.fixture(scope="module")
def musiccaps(tmp_path_factory):
    root = write_musiccaps(tmp_path_factory.mktemp("musiccaps"), CLIPS)
    write(root / "clips" / "[-0Gj8-vB1q4]-[30-40].wav", sound(1, 1.0))
    write(root / "clips" / "0PvFzMFHkXs.wav", sound(2, 1.0))
    return root


class TestFma:
    def test_rows_have_paths_words_genres_and_licences(self, fma):
        rows = list(load_external("fma", fma))
        assert [row["id"] for row in rows] == ["fma-000002", "fma-000003", "fma-000005", "fma-000010"]
        assert rows[0]["audio"] == {"bytes": None, "path": str(fma_path(fma, 2))}
        assert rows[0]["genres"] == ["Jazz", "Be-Bop"] and rows[0]["caption"] == "jazz, be-bop"
        assert rows[0]["style"] == "bebop" and rows[0]["captions"][1] == "late night"
        assert [row["licence"] for row in rows] == ["by", "by-nc-sa", "by-sa", "unstated"]
        assert [row["jazz"] for row in rows] == [
            True,
            False,
            True,
            False,
        ]  # by its own genre, or by one above it

    def test_an_artist_is_in_one_split_however_written(self, fma):
        rows = list(load_external("fma", fma))
        assert rows[0]["split"] == rows[1]["split"] and rows[2]["split"] == rows[3]["split"]

    @pytest.mark.parametrize("place", ["", "fma_metadata", "fma_metadata/tracks.csv", "fma_small"])
    def test_any_place_in_it_will_do(self, fma, place):
        rows = list(load_external("fma", fma / place))
        assert rows[0]["audio"]["path"] == str(fma_path(fma, 2))

    def test_streaming_gives_the_same(self, fma):
        stream = load_external("fma", fma, streaming=True)
        assert isinstance(stream, datasets.IterableDataset)
        assert list(stream) == list(load_external("fma", fma))

    def test_filter_by_licence_jazz_and_words(self, fma):
        data = load_external("fma", fma)
        assert len(data.filter(Selection(FREE_LICENCES))) == 2
        assert len(data.filter(Selection(jazz=True))) == 2
        assert data.filter(Selection(words=("international",)))["id"] == ["fma-000005"]
        assert Selection(FREE_LICENCES).why_not(data[1]) == "licence"

    def test_tracks_outside_the_subset_are_not_asked_for(self, tmp_path):
        root = write_fma(tmp_path, TRACKS, subset="large")
        (root / "fma_large").rename(root / "fma_medium")
        assert len(load_external("fma", root)) == 0
        assert len(load_external("fma", root, subset="full")) == 4

    def test_missing_columns_are_named(self, fma, tmp_path):
        lines = (fma / "fma_metadata" / "tracks.csv").read_text().replace("license", "licence")
        (tmp_path / "tracks.csv").write_text(lines)
        with pytest.raises(WrongSchema, match=r"lacks track\.license.*Expected.*track\.genre_top"):
            load_external("fma", tmp_path, audio=fma)
        (tmp_path / "tracks.csv").write_text("id,name\n1,a\n")
        with pytest.raises(WrongSchema, match=r"lacks artist\.name"):
            load_external("fma", tmp_path, audio=fma)

    def test_sound_that_is_nowhere(self, fma, tmp_path):
        (tmp_path / "fma_metadata").symlink_to(fma / "fma_metadata")
        with pytest.raises(FileNotFoundError, match=r"000/000002\.mp3"):
            load_external("fma", tmp_path)


class TestHubCopies:
    """Folders of Parquet files in the columns of copies on the Hub; the sound is in the rows."""

    @pytest.fixture
    def copy(self, fma, tmp_path):
        names = ["Be-Bop", "Rock"]
        kinds = datasets.Features(
            {
                "audio": {"bytes": datasets.Value("binary"), "path": datasets.Value("string")},
                "title": datasets.Value("string"), "artist": datasets.Value("string"),
                "genres": datasets.List(datasets.ClassLabel(names=names)),
                "license": datasets.ClassLabel(names=["CC BY 4.0", "CC BY-NC-ND 4.0"]),
            }
        )  # fmt: skip
        data = fma_path(fma, 2).read_bytes()
        rows = [{"audio": {"bytes": data, "path": "a.mp3"}, "title": "One", "artist": "Anna Blue", "genres": [0],
                 "license": 0},
                {"audio": {"bytes": data, "path": "b.mp3"}, "title": "Two", "artist": "Ben", "genres": [1],
                 "license": 1}]  # fmt: skip
        table = datasets.Dataset.from_list(rows, features=kinds)
        table = table.cast_column("audio", datasets.Audio(decode=False))
        (tmp_path / "data").mkdir()
        table.to_parquet(tmp_path / "data" / "train-00000-of-00001.parquet")
        return tmp_path

    @pytest.mark.parametrize("streaming", [False, True])
    def test_fma(self, fma, copy, streaming):
        data = load_external("fma", copy, streaming=streaming)
        assert data.features == features()
        rows = list(data)
        assert [(row["licence"], row["jazz"], row["artist"]) for row in rows] == [
            ("by", True, "Anna Blue"), ("by-nc-nd", False, "Ben"),
        ]  # fmt: skip
        assert rows[0]["audio"]["bytes"] == fma_path(fma, 2).read_bytes()
        assert rows[0]["split"] == split_by("Anna Blue") and rows[0]["id"] != rows[1]["id"]

    def test_missing_columns_are_named(self, copy):
        file = copy / "data" / "train-00000-of-00001.parquet"
        datasets.Dataset.from_parquet(str(file)).remove_columns(["license", "artist"]).to_parquet(file)
        with pytest.raises(WrongSchema, match=r"lacks artist, license\. Expected are audio, title"):
            load_external("fma", copy)
        with pytest.raises(WrongSchema, match="lacks ytid"):
            load_external("musiccaps", copy)


class TestMusicCaps:
    def test_rows(self, musiccaps):
        first, second = load_external("musiccaps", musiccaps)
        assert (
            first["caption"] == CLIPS[0][3]
            and first["captions"][1] == "smooth jazz, double bass, melancholic"
        )
        assert (first["tempo"], first["key"], first["mood"]) == (96, "Dm", "melancholic")
        assert first["instruments"] == ["bass"] and first["jazz"] and not second["jazz"]
        assert first["licence"] == "unstated"

    def test_a_clip_is_taken_whole_and_a_track_named_by_ytid_may_be_cut(self, musiccaps):
        first, second = load_external("musiccaps", musiccaps)
        assert (first["start"], first["end"]) == (None, None)
        assert (second["start"], second["end"]) == (0, 10)

    def test_what_others_measure_on_is_held_out(self, musiccaps):
        assert load_external("musiccaps", musiccaps)[1]["split"] == "test"

    def test_missing_columns_are_named(self, musiccaps, tmp_path):
        text = (musiccaps / "musiccaps-public.csv").read_text().replace("aspect_list", "aspects")
        (tmp_path / "musiccaps-public.csv").write_text(text)
        with pytest.raises(WrongSchema, match=r"lacks aspect_list\. Expected are ytid"):
            load_external("musiccaps", tmp_path, audio=musiccaps)

    def test_no_sound(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"\[ytid\]-\[start-end\]"):
            load_external("musiccaps", write_musiccaps(tmp_path, CLIPS))


class TestFolder:
    def test_folders_are_artists(self, tmp_path):
        for name in ("Anna Blue/one.wav", "Anna Blue/two.wav", "three.wav"):
            write(tmp_path / name, sound(1, 0.1))
        rows = list(load_external("folder", tmp_path))
        assert [row["artist"] for row in rows] == ["Anna Blue", "Anna Blue", None]
        assert len({row["id"] for row in rows}) == 3

    def test_what_is_passed_over_is_named(self, tmp_path):
        for name in ("one.wav", "Anna Blue/two.mid", "cover.jpg", ".hidden"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_bytes(b"")
        assert [path.name for path in passed_over("folder", tmp_path)] == ["two.mid", "cover.jpg"]
        named = tmp_path / "-abcdefghij-[0-10].wav"
        named.touch()
        found = passed_over("musiccaps", tmp_path / "musiccaps-public.csv", tmp_path)
        assert [path.name for path in found] == ["one.wav", "two.mid", "cover.jpg"]


def test_unknown_names_are_refused(tmp_path):
    with pytest.raises(ValueError, match="choose fma, musiccaps, folder"):
        load_external("gtzan", tmp_path)
    with pytest.raises(ValueError, match="unknown licence"):
        Selection(licences=("free",))
    with pytest.raises(FileNotFoundError, match=r"neither tracks\.csv nor"):
        load_external("fma", tmp_path)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("CC0 1.0 Universal", "public-domain"),
        ("Public Domain Mark 1.0", "public-domain"),
        ("Attribution 4.0 International", "by"),
        ("Attribution-Share Alike 3.0 United States", "by-sa"),
        ("Attribution-Noncommercial-No Derivative Works 3.0", "by-nc-nd"),
        ("Creative Commons Attribution-NonCommercial-NoDerivatives 4.0", "by-nc-nd"),
        ("CC BY-NC 4.0", "by-nc"),
        ("FMA-Limited: Download Only", "other"),
        (None, "unstated"),
    ],
)
def test_licences(text, name):
    assert licence_class(text) == name


def test_splits_have_their_shares():
    splits = [split_by(f"artist {number}", validation=0.1, test=0.2) for number in range(2000)]
    assert abs(splits.count("test") / 2000 - 0.2) < 0.03
    assert abs(splits.count("validation") / 2000 - 0.1) < 0.03
