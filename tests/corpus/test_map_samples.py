"""training/map_samples.py: names that say which note a file holds, and what a mapping makes of them."""

import pytest
from sample_files import write_tone
from scripts import load_script

from rtjazz_hf.corpus.sfz import read_sfz


@pytest.fixture(scope="module")
def script():
    return load_script("map_samples")


@pytest.mark.parametrize(
    ("name", "told"),
    [("note-55.flac", (55, 0, 1)), ("055_f_rr2.wav", (55, 5, 2)), ("A#3v8.ogg", (58, 8, 1)),
     ("bb2_mf_rr1.wav", (46, 4, 1)), ("C-1.wav", (0, 0, 1)), ("trumpet F4 pp.wav", (65, 1, 1)),
     ("040_vl3_rr4.flac", (40, 3, 4)), ("noise.wav", None)],
)  # fmt: skip
def test_names(script, tmp_path, name, told):
    assert script.named(tmp_path / name) == told


def test_a_mapping_of_layers_robins_and_tuning(script, tmp_path, capsys):
    for key, octave in ((57, "A3"), (63, "D#4")):
        for layer in ("p", "f"):
            write_tone(tmp_path / "raw" / f"{octave}_{layer}.wav", key + 0.2, 44_100)
    write_tone(tmp_path / "raw" / "C6_p.wav", 85, 44_100)  # it is a C sharp
    (tmp_path / "raw" / "hiss.wav").write_bytes((tmp_path / "raw" / "A3_p.wav").read_bytes())
    assert script.main([str(tmp_path / "raw"), "--out", str(tmp_path / "trumpet")]) == 0
    said = capsys.readouterr()
    assert "hiss.wav: its name tells no key" in said.err and "C6_p.wav" in said.err
    regions = [region.opcodes for region in read_sfz(tmp_path / "trumpet" / "trumpet.sfz").regions]
    assert [(r["lokey"], r["hikey"], r["lovel"], r["hivel"]) for r in regions] == [
        ("55", "60", "0", "64"), ("55", "60", "65", "127"), ("61", "65", "0", "64"), ("61", "65", "65", "127"),
    ]  # fmt: skip
    assert {region["tune"] for region in regions} <= {"-19", "-20", "-21"}
    assert all(path.is_file() for path in read_sfz(tmp_path / "trumpet" / "trumpet.sfz").samples)


def test_one_note_twice_and_none_at_all(script, tmp_path, capsys):
    for place in ("near", "far"):
        write_tone(tmp_path / "raw" / place / "A3.wav", 57, 44_100)
    assert script.main([str(tmp_path / "raw"), "--out", str(tmp_path / "x")]) == 1
    assert "there twice (key 57" in capsys.readouterr().err
    assert script.main([str(tmp_path / "raw"), "--only", "near", "--out", str(tmp_path / "x")]) == 0
    assert script.main([str(tmp_path / "raw"), "--only", "nowhere", "--out", str(tmp_path / "y")]) == 1
    assert not (tmp_path / "y").exists()
