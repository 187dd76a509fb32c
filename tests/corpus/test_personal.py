import numpy as np
import pytest
from scripts import load_script
from synthetic_takes import played

from rtjazz_hf.audio import SAMPLE_RATE, write_audio
from rtjazz_hf.band import write_lead_sheet
from rtjazz_hf.band.composer import compose
from rtjazz_hf.corpus import personal
from rtjazz_hf.corpus.personal import (
    ONSET_RATE,
    TakeLabel,
    analyse,
    find_recordings,
    make_pieces,
    prepare_takes,
    read_labels,
    why_unusable,
)
from rtjazz_hf.corpus.tempo import estimate_pulse
from rtjazz_hf.music import LeadSheet

fit_tempo = load_script("fit_tempo")


def tone(seconds, level=0.1):
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    return np.stack([level * np.sin(2 * np.pi * 220 * time)] * 2).astype(np.float32)


@pytest.mark.parametrize(
    ("audio", "reason"),
    [(tone(2), "too short"), (tone(8) * 0, "silent"), (np.clip(tone(8, 5.0), -1, 1), "clipped")],
)
def test_unusable_recordings_are_told_why(audio, reason):
    assert reason in why_unusable(audio)


def test_quiet_sound_is_usable():
    assert why_unusable(tone(8)) is None


def test_empty_folder_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no recording"):
        find_recordings(tmp_path)


def test_too_little_says_how_much_is_needed_and_names_every_file(tmp_path):
    pytest.importorskip("librosa")
    (tmp_path / "in").mkdir()
    write_audio(tmp_path / "in" / "short.wav", tone(2))
    (tmp_path / "in" / "bad.flac").write_bytes(b"fLaC nothing")
    with pytest.raises(ValueError, match="60 s are needed") as error:
        prepare_takes(tmp_path / "in", tmp_path / "out", "me")
    assert "short.wav" in str(error.value) and "bad.flac" in str(error.value)


def test_tempo_of_clicks_swung_or_not():
    for tempo in (80.0, 126.0, 147.0, 220.0):
        for offbeat in (None, 2 / 3):
            clicks = fit_tempo.metronome(tempo, offbeat)
            assert abs(estimate_pulse(clicks, ONSET_RATE)[0] / tempo - 1) < 0.03, (tempo, offbeat)


@pytest.mark.parametrize(
    "genre, tempo",
    [("bossa", 120), ("bossa", 150), ("swing", 132), ("bebop", 220), ("ballad", 64), ("waltz", 130)],
)
def test_tempo_of_composed_music(genre, tempo):
    """From notes alone: straight quavers are not taken for triplets of two thirds of the tempo, nor the reverse."""
    rate = ONSET_RATE
    sheet = write_lead_sheet(genre, tempo=tempo, instruments=("piano", "bass", "drums"), duration=40, seed=3)
    take = compose(sheet, np.random.default_rng(3))
    onsets = np.zeros(round(45 * rate))
    for notes in take.notes.values():
        for note in notes:
            if note.start_s < 44:
                onsets[round(note.start_s * rate)] += note.velocity / 127
    found, straight = estimate_pulse(np.convolve(onsets, [0.5, 1.0, 0.5], "same"), rate)
    assert abs(found / tempo - 1) < 0.03
    assert straight == (genre == "bossa")
    for known in (45.0, float(tempo), 310.0):
        assert estimate_pulse(onsets, rate, tempo=known)[0] == known


@pytest.fixture(scope="module")
def take():
    """A take with clicks and chords, and what is heard in it."""
    pytest.importorskip("librosa")
    audio = played(120, 24.0, "Dm7 | G7 | Cmaj7 | Cmaj7")
    return audio, analyse(audio)


def test_analysis_of_a_take_with_clicks_and_chords(take):
    audio, heard = take
    times, chords = heard.times, heard.chords
    assert 60 / np.diff(times).mean() == pytest.approx(120, rel=0.02)
    asked = LeadSheet.from_chart("Dm7 | G7 | Cmaj7 | Cmaj7", 120)
    true = [asked.chord_segments(time + 0.1, 0.1)[0][2].root for time in times[:-2]]
    assert np.mean([one.root == root for one, root in zip(chords, true)]) > 0.8
    assert abs(np.median((times / 0.5 + 0.5) % 1 - 0.5)) < 0.02  # 10 ms: neither early nor late
    placed = analyse(audio, TakeLabel(tempo=120, chords="Dm7 | G7 | Cmaj7 | Cmaj7"))
    given, first = placed.chords, placed.downbeat
    assert np.mean([one.root == root for one, root in zip(given, true)]) > 0.9
    assert 0 <= first < 4


def test_swing_of_pieces_is_heard_or_told(take):
    audio, straight = take[0], take[1].straight
    heard = {sheet.swing for _, sheet in make_pieces(audio, ["piano"])}
    assert heard == {0.0} if straight else min(heard) > 0
    told = {sheet.swing for _, sheet in make_pieces(audio, ["piano"], label=TakeLabel(swing=0.4))}
    assert told == {0.4}
    with pytest.raises(ValueError, match=r"swing 1\.5 is out of range: choose 0"):
        TakeLabel(swing=1.5)


def test_another_analysis_prepares_anew(tmp_path, monkeypatch):
    pytest.importorskip("librosa")
    (tmp_path / "in").mkdir()
    write_audio(tmp_path / "in" / "take.wav", played(120, 12.0))
    how = {"minimum_seconds": 10, "pictures": False}
    prepare_takes(tmp_path / "in", tmp_path / "out", "me", **how)
    written = (tmp_path / "out" / "report.json").stat().st_mtime_ns
    prepare_takes(tmp_path / "in", tmp_path / "out", "me", **how)
    assert (tmp_path / "out" / "report.json").stat().st_mtime_ns == written
    monkeypatch.setattr(personal, "_ANALYSIS", personal._ANALYSIS + 1)
    prepare_takes(tmp_path / "in", tmp_path / "out", "me", **how)
    assert (tmp_path / "out" / "report.json").stat().st_mtime_ns != written


def spoken(seconds=24.0, seed=0):
    """What is like speech to the analysis: syllables, four a second, of a voice whose pitch glides up and down."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    glide = np.interp(
        time, np.arange(0, seconds + 1, 0.15), 140 * 2 ** rng.uniform(-0.5, 0.5, round(seconds / 0.15) + 7)
    )
    phase = 2 * np.pi * np.cumsum(glide) / SAMPLE_RATE
    voice = sum(np.sin(k * phase) / k for k in range(1, 12)) * np.abs(np.sin(4 * np.pi * time))
    return np.stack([0.1 * voice] * 2).astype(np.float32)


def staccato(seconds=24.0, seed=0):
    """Dry notes of 0.1 s, eight a second, on a scale that is tuned 30 cents high."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(0.125 * SAMPLE_RATE)) / SAMPLE_RATE
    shape = np.exp(-time / 0.05) * (time < 0.1)
    notes = []
    for beat, step in enumerate(rng.choice([0, 2, 4, 5, 7, 9, 11, 12], round(8 * seconds))):
        hertz = 330 * 2 ** ((step + 0.3) / 12)
        loud = 0.3 if beat % 4 == 0 else 0.15
        notes.append(loud * shape * sum(np.sin(2 * np.pi * k * hertz * time) / k for k in (1, 2, 3)))
    return np.stack([np.concatenate(notes)] * 2).astype(np.float32)


def test_speech_is_refused_and_staccato_is_not():
    pytest.importorskip("librosa")
    with pytest.raises(ValueError, match="as in speech"):
        analyse(spoken())
    assert len(analyse(staccato()).times) > 8


def test_labels_are_checked(tmp_path):
    assert read_labels(tmp_path) == {}
    (tmp_path / "labels.json").write_text('{"a.wav": {"tempo": 126, "key": "Bb"}}')
    with pytest.raises(ValueError, match=r"not there: a\.wav"):
        read_labels(tmp_path)
    write_audio(tmp_path / "a.wav", tone(1))
    assert read_labels(tmp_path)["a.wav"].tempo == 126
    (tmp_path / "labels.json").write_text('{"a.wav": {"speed": 126}}')
    with pytest.raises(ValueError, match="tempo, key, chords, beats_per_bar, swing"):
        read_labels(tmp_path)


@pytest.mark.parametrize(
    "suffix, seconds",
    [("wav", 24.0), ("mp3", 12.0), ("aiff", 12.0), *(pytest.param(name, 24.0, marks=pytest.mark.slow)
                                                     for name in ("flac", "ogg"))],
)  # fmt: skip
def test_formats_and_what_is_prepared_is_kept(tmp_path, suffix, seconds):
    soundfile = pytest.importorskip("soundfile")
    pytest.importorskip("librosa")
    if suffix.upper() not in soundfile.available_formats():
        pytest.skip(f"libsndfile writes no {suffix} here")
    (tmp_path / "in").mkdir()
    soundfile.write(
        tmp_path / "in" / f"take.{suffix}", played(120, seconds)[0, ::2], 24_000
    )  # mono, another rate
    how = {"name": "me", "minimum_seconds": 10, "pictures": False}
    records, report = prepare_takes(tmp_path / "in", tmp_path / "out", **how)
    assert records[0].lead_sheet.tempo == pytest.approx(120, rel=0.02) and report.takes[0].pieces == len(
        records
    )
    written = records[0].path.stat().st_mtime_ns
    again, same = prepare_takes(tmp_path / "in", tmp_path / "out", **how)
    assert [r.lead_sheet for r in again] == [
        r.lead_sheet for r in records
    ] and same.to_text() == report.to_text()
    assert again[0].path.stat().st_mtime_ns == written
