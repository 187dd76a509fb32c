"""The listening test: a page that is blind and whole, and scores that belong to its key."""

from __future__ import annotations

import json
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest
import soundfile

from rtjazz_hf.evaluation.listening_test import (
    FORMAT,
    ListeningClip,
    listening_page,
    low_anchor,
    score_listening_test,
    scores_table,
    write_listening_test,
)
from rtjazz_hf.evaluation.measures.metrics import band_energies
from rtjazz_hf.evaluation.parts.listening import chart_of_start
from rtjazz_hf.music import LeadSheet

KINDS = ("generated", "held_out", "reconstruction", "anchor")
RATE = 48_000


def clips(items: int = 2, seconds: float = 1.0) -> list[ListeningClip]:
    """Noise of many levels; every other one a little longer."""
    rng = np.random.default_rng(0)
    made = []
    for number in range(items):
        for place, kind in enumerate(KINDS):
            audio = rng.standard_normal((2, round(seconds * RATE) + 100 * (place % 2)))
            audio = (0.02 * (1 + place) * audio).astype(np.float32)
            made.append(ListeningClip(kind, f"take-{number}", audio, "4/4 Dm7 | G7", 120.0))
    return made


class Page(HTMLParser):
    """The tags of a page, and the text of its scripts."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.scripts: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data):
        if self.tags and self.tags[-1][0] == "script":
            self.scripts[-1] += data


@pytest.fixture
def kit(tmp_path):
    pytest.importorskip("pyloudnorm")
    page = write_listening_test(clips(), tmp_path / "test", seed=1)
    return page, json.loads((tmp_path / "test" / "key.json").read_text())


class TestPage:
    def test_clips_have_neutral_names_one_length_and_one_loudness(self, kit):
        from rtjazz_hf.audio import measure_loudness

        page, key = kit
        files = sorted((page.parent / "clips").iterdir())
        assert [file.stem for file in files] == sorted(key["clips"]) == [f"clip-{i:03d}" for i in range(1, 9)]
        sounds = [soundfile.read(file)[0].T for file in files]
        assert {sound.shape for sound in sounds} == {(2, RATE)}
        loudness = [measure_loudness(sound) for sound in sounds]
        np.testing.assert_allclose(loudness, key["loudness_lufs"], atol=0.1)
        assert key["loudness_lufs"] <= -23.0 and max(np.abs(sound).max() for sound in sounds) < 1.0

    def test_the_page_does_not_tell(self, kit):
        page, key = kit
        text = page.read_text()
        data = json.loads(Page(text).scripts[0])
        assert [clip["name"] for clip in data["clips"]] == sorted(key["clips"])
        assert data["kit"] == key["kit"]
        for secret in (*KINDS[:3], "take-0"):
            assert secret not in text
        kinds = [key["clips"][name]["kind"] for name in sorted(key["clips"])]
        assert kinds != [clip.kind for clip in clips()]  # not in the order in which they were given
        assert sorted(kinds) == sorted(clip.kind for clip in clips())

    def test_nothing_is_fetched_and_nothing_sent(self, kit):
        text = kit[0].read_text()
        parsed = Page(text)
        assert "http://" not in text and "https://" not in text and "fetch(" not in text
        assert not [tag for tag, attributes in parsed.tags if "src" in attributes or "href" in attributes]
        policy = [a["content"] for _, a in parsed.tags if a.get("http-equiv") == "Content-Security-Policy"]
        assert policy and "connect-src 'none'" in policy[0]
        assert any(a.get("name") == "viewport" for _, a in parsed.tags)

    def test_what_is_written_in_a_chart_stays_text(self):
        evil = "</script><script>alert(1)</script><!-- & \u2028"
        data = {"clips": [{"chart": evil}]}
        page = Page(listening_page(data))
        assert json.loads(page.scripts[0]) == data
        assert len(page.scripts) == 2 and "alert" not in page.scripts[1]

    def test_another_is_refused(self, kit):
        with pytest.raises(FileExistsError, match="already"):
            write_listening_test(clips(), kit[0].parent.parent)

    def test_silence_is_refused(self, tmp_path):
        pytest.importorskip("pyloudnorm")
        silent = ListeningClip("generated", "a", np.zeros((2, RATE), np.float32), "C", 120.0)
        with pytest.raises(ValueError, match="silent"):
            write_listening_test([silent], tmp_path / "test")
        assert not (tmp_path / "test").exists()

    def test_the_script(self, kit):
        """Its functions, under Node: order, what counts as rated, what is saved, what is resumed."""
        node = shutil.which("node")
        if node is None:
            pytest.skip("Node is not installed")
        script = Page(kit[0].read_text()).scripts[1]
        script += """
const kit = {format: "f", kit: "k", scales: [{name: "a"}, {name: "b"}], clips: [{name: "x"}, {name: "y"}]};
let seed = 1;
const random = () => (seed = (seed * 16807) % 2147483647) / 2147483647;
const many = shuffled([...Array(50).keys()], random);
const state = {listener: "me", order: ["y", "x"], ratings: {x: {a: 1, b: 5}, y: {a: 2}}};
console.log(JSON.stringify({
  shuffled: many,
  rated: [isRated(kit, {a: 1, b: 5}), isRated(kit, {a: 1}), isRated(kit, {a: 1, b: 6}), isRated(kit, undefined)],
  saved: collect(kit, state.listener, state.order, state.ratings, "now"),
  resumed: [resume(kit, JSON.stringify(state)), resume(kit, null), resume(kit, "{"), resume(kit, '{"order": ["x"]}')],
}));"""
        output = subprocess.run([node, "-e", script], capture_output=True, text=True, timeout=60, check=True)
        result = json.loads(output.stdout)
        assert sorted(result["shuffled"]) == list(range(50)) != result["shuffled"]
        assert result["rated"] == [True, False, False, False]
        assert result["saved"] == {
            "format": "f", "kit": "k", "listener": "me", "saved": "now", "order": ["y", "x"],
            "ratings": {"x": {"a": 1, "b": 5}},
        }  # fmt: skip
        assert result["resumed"][0]["listener"] == "me" and result["resumed"][1:] == [None, None, None]


def test_the_anchor_has_no_heights():
    noise = np.random.default_rng(0).standard_normal((2, RATE)).astype(np.float32)
    low = low_anchor(noise)
    assert low.shape == noise.shape
    change = band_energies(low) - band_energies(noise)
    assert abs(change[3]) < 0.5 and change[7] < -40  # 500 Hz, 8 kHz


def test_the_chart_of_a_start():
    sheet = LeadSheet.from_chart("Dm7 G7 | Cmaj7 | A7 | D7", tempo=120)
    assert chart_of_start(sheet, 3.0) == "4/4 Dm7 G7 | Cmaj7"
    assert chart_of_start(sheet, 0.1) == "4/4 Dm7 G7"
    assert chart_of_start(sheet, 100.0) == sheet.to_text()


class TestScores:
    @pytest.fixture
    def saved(self, kit, tmp_path):
        """Write what a listener saved: quality by kind, other scales 3."""
        _, key = kit

        def write(name: str, quality: dict[str, int], **changes) -> str:
            ratings = {
                clip: {"quality": quality[known["kind"]], "jazz": 3, "chart": 3}
                for clip, known in key["clips"].items()
            }
            data = {"format": FORMAT, "kit": key["kit"], "listener": name, "ratings": ratings} | changes
            path = tmp_path / f"{name}.json"
            path.write_text(json.dumps(data))
            return str(path)

        return write

    @pytest.fixture
    def key_file(self, kit):
        return kit[0].parent.parent / "key.json"

    GOOD = {"generated": 4, "held_out": 5, "reconstruction": 4, "anchor": 1}
    FAIR = {"generated": 2, "held_out": 5, "reconstruction": 4, "anchor": 2}

    def test_means_and_intervals(self, saved, key_file):
        files = [saved(f"l{i}", self.GOOD if i % 2 else self.FAIR) for i in range(6)]
        result = score_listening_test(files, key_file)
        assert (result["listeners"], result["items"], result["ratings"]) == (6, 2, 48)
        quality = {kind: scores["quality"] for kind, scores in result["scores"].items()}
        assert quality["held_out"] == {"mean": 5.0, "low": 5.0, "high": 5.0, "ratings": 12}
        assert quality["generated"]["mean"] == 3.0
        assert 2.0 <= quality["generated"]["low"] < 3.0 < quality["generated"]["high"] <= 4.0
        assert result["warnings"] == []
        header, rows = scores_table(result)
        assert [row[0] for row in rows] == ["held out", "reconstruction", "generated", "anchor"]
        assert len(header) == len(rows[0]) == 5

    def test_who_cannot_tell_the_anchor_is_named(self, saved, key_file):
        result = score_listening_test([saved("deaf", dict.fromkeys(KINDS, 4))], key_file)
        assert len(result["warnings"]) == 1 and "deaf.json" in result["warnings"][0]

    def test_half_a_result_counts_for_what_it_holds(self, saved, key_file, kit):
        name = next(name for name, clip in kit[1]["clips"].items() if clip["kind"] == "generated")
        ratings = {name: {"quality": 2, "jazz": 3, "chart": 4}}
        result = score_listening_test([saved("half", self.GOOD, ratings=ratings)], key_file)
        assert result["ratings"] == 1 and result["scores"]["generated"]["chart"]["mean"] == 4.0
        assert np.isnan(result["scores"]["anchor"]["quality"]["mean"])
        assert scores_table(result)[1][0][0] == "generated"

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"kit": "other"}, "belongs to test 'other'"),
            ({"format": "x"}, "no result"),
            ({"ratings": {}}, "no rating"),
            ({"ratings": {"clip-999": {"quality": 1, "jazz": 1, "chart": 1}}}, "clip-999"),
            ({"ratings": {"clip-001": {"quality": 6, "jazz": 1, "chart": 1}}}, "from 1 to 5"),
            ({"ratings": {"clip-001": {"quality": True, "jazz": 1, "chart": 1}}}, "from 1 to 5"),
            ({"ratings": {"clip-001": {"quality": 1}}}, "from 1 to 5"),
            ({"listener": 7}, "no result"),
        ],
    )
    def test_what_does_not_match_the_key_is_refused(self, saved, key_file, changes, words):
        with pytest.raises(ValueError, match=words):
            score_listening_test([saved("good", self.GOOD), saved("bad", self.GOOD, **changes)], key_file)

    def test_the_same_listener_twice(self, saved, key_file, tmp_path):
        first = saved("me", self.GOOD)
        copy = tmp_path / "copy.json"
        shutil.copy(first, copy)
        with pytest.raises(ValueError, match="same listener"):
            score_listening_test([first, copy], key_file)

    def test_files_that_are_something_else(self, saved, key_file, tmp_path):
        (tmp_path / "text.json").write_text("hello")
        with pytest.raises(ValueError, match="no result"):
            score_listening_test([tmp_path / "text.json"], key_file)
        with pytest.raises(FileNotFoundError, match=r"nowhere\.json"):
            score_listening_test([tmp_path / "nowhere.json"], key_file)
        with pytest.raises(ValueError, match="no key"):
            score_listening_test([saved("me", self.GOOD)], saved("you", self.GOOD))
