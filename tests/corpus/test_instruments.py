import shutil

import numpy as np
import pytest

from rtjazz_hf.band.performance import Note
from rtjazz_hf.corpus.instruments import InstrumentsError, load_instruments, onset_of, player_of
from rtjazz_hf.corpus.lanes import WHEEL_STEP, Lane
from rtjazz_hf.corpus.sampler import Sampler, Zone, shared_sampler

RATE = 48_000


@pytest.fixture(scope="module")
def loaded(sfizz, instruments_folder):
    said = []
    found = load_instruments(instruments_folder, said.append)
    return {each.player: each for each in found}, said


@pytest.fixture
def copy(instruments_folder, tmp_path):
    return shutil.copytree(instruments_folder, tmp_path / "instruments")


def hertz_of(sound, start_s, seconds=0.2):
    """The lowest strong partial of `(2, samples)`."""
    piece = sound.sum(axis=0)[round(start_s * RATE) :][: round(seconds * RATE)]
    size = 1 << 18
    power = np.abs(np.fft.rfft(piece * np.hanning(len(piece)), size))
    return int(np.argmax(power)) * RATE / size


def cents(hertz, key):
    return 1200 * np.log2(hertz / (440 * 2 ** ((key - 69) / 12)))


class TestFolders:
    @pytest.mark.parametrize(
        ("name", "player"),
        [("upright_bass", "bass"), ("alto_flute", "flute"), ("jazz_guitar", "guitar"), ("trumpet_2", "trumpet"),
         ("piano", "piano"), ("drums", None), ("readings", None)],
    )  # fmt: skip
    def test_a_name_is_a_player(self, name, player):
        assert player_of(name) == player

    def test_what_is_there_what_is_not_and_its_terms(self, loaded):
        found, said = loaded
        assert set(found) == {"bass", "alto_sax", "trumpet"}
        assert "sound fonts alone: piano" in said[-1] and "trombone" in said[-1]
        assert any(text.startswith("alto_sax has no sample") for text in said) is False
        assert found["bass"].terms == "CC0 1.0" and found["alto_sax"].terms == "not told"
        assert found["trumpet"].keys == frozenset(range(40, 101))

    def test_a_folder_of_another_name_is_named_and_passed_over(self, sfizz, copy):
        (copy / "tuba").mkdir()
        said = []
        assert len(load_instruments(copy, said.append)) == 3
        assert "tuba" in said[0] and "left out" in said[0]

    def test_keys_that_are_lacking_are_told(self, sfizz, copy):
        text = (copy / "alto_sax" / "sax.sfz").read_text()
        (copy / "alto_sax" / "sax.sfz").write_text("\n".join(text.splitlines()[:-1]))
        said = []
        load_instruments(copy, said.append)
        assert "alto_sax has no sample for 8 of the keys 53 to 80" in said[0]


class TestFaults:
    def missing(folder):
        (folder / "upright_bass/samples/43 1.wav").unlink()
        return "upright_bass: sample '.*43 1.wav' is missing"

    def corrupt(folder):
        data = bytearray((folder / "alto_sax/65.flac").read_bytes())
        data[len(data) // 2 : len(data) // 2 + 40] = bytes(40)
        (folder / "alto_sax/65.flac").write_bytes(data)
        return "alto_sax: sample '.*65.flac' is damaged"

    def no_audio(folder):
        (folder / "alto_sax/65.flac").write_text("a picture")
        return "alto_sax: sample '.*65.flac' is damaged"

    def cut(folder):
        data = (folder / "alto_sax/65.flac").read_bytes()
        (folder / "alto_sax/65.flac").write_bytes(data[: len(data) // 2])
        return "alto_sax: sample '.*65.flac'"

    def slow(folder):
        from sample_files import write_tone

        write_tone(folder / "alto_sax/65.flac", 65, 4_000)
        return "has 4000 samples a second; 8000 to 192000 are played"

    def silent(folder):
        import soundfile

        soundfile.write(folder / "alto_sax/65.flac", np.zeros(9_000), 48_000)
        return "is silent"

    def none(folder):
        (folder / "trumpet/trumpet.sfz").unlink()
        return r"trumpet: no \.sfz"

    def several(folder):
        (folder / "trumpet/b.sfz").write_text("<region> sample=wav/high.wav")
        return r"trumpet: several mappings \(b.sfz, trumpet.sfz\)"

    def empty(folder):
        (folder / "trumpet/trumpet.sfz").write_text("hello")
        return "has no region with a sample"

    @pytest.mark.parametrize("damage", [missing, corrupt, no_audio, cut, slow, silent, none, several, empty])
    def test_every_fault_is_named(self, sfizz, copy, damage):
        with pytest.raises(InstrumentsError, match=damage(copy)):
            load_instruments(copy)

    def test_all_of_them_at_once_and_what_to_do(self, sfizz, copy):
        (copy / "upright_bass/samples/43 1.wav").unlink()
        (copy / "trumpet/trumpet.sfz").unlink()
        with pytest.raises(InstrumentsError, match=r"(?s)trumpet.*upright_bass.*nothing was written"):
            load_instruments(copy)

    def test_no_folder_and_an_empty_one(self, tmp_path):
        with pytest.raises(InstrumentsError, match="no folder of instruments"):
            load_instruments(tmp_path / "gone")
        with pytest.raises(InstrumentsError, match="named after a player"):
            load_instruments(tmp_path)


class TestPlaying:
    @pytest.mark.parametrize("player", ["bass", "alto_sax", "trumpet"])
    def test_pitch_whatever_the_rate_of_the_samples(self, loaded, player):
        sampler = shared_sampler(loaded[0][player].mapped)
        key = {"bass": 40, "alto_sax": 62, "trumpet": 70}[player]
        sound = sampler.play([Lane((Note(0.2, 0.6, key, 90),))], 1.0, np.random.default_rng(0))
        assert sound.shape == (2, RATE) and sound.dtype == np.float32
        assert abs(cents(hertz_of(sound, 0.3, 0.4), key)) < 4

    def test_notes_are_heard_on_their_beat_however_late_their_samples_begin(self, loaded):
        for player, key in (("alto_sax", 65), ("bass", 43), ("trumpet", 67)):
            sampler = shared_sampler(loaded[0][player].mapped)
            for start in (0.0, 0.3):  # in the first instant of a take, too
                sound = sampler.play([Lane((Note(start, 0.5, key, 90),))], 1.0, np.random.default_rng(0))
                padded = np.pad(sound.sum(axis=0), (2_400, 0))
                assert -0.002 < onset_of(padded) - 0.05 - start < 0.012

    def test_the_wheel_bends_in_lines(self, loaded):
        sampler = shared_sampler(loaded[0]["trumpet"].mapped)
        wheel = np.interp(np.arange(200) * WHEEL_STEP / RATE, [0.0, 0.3, 0.31, 1.0], [0.0, 0.0, -5.0, -5.0])
        sound = sampler.play([Lane((Note(0.05, 0.9, 67, 90),), wheel)], 1.0, np.random.default_rng(0))
        assert abs(cents(hertz_of(sound, 0.08), 67)) < 6 and abs(cents(hertz_of(sound, 0.5, 0.4), 62)) < 6

    def test_swell_is_a_gain(self, loaded):
        sampler = shared_sampler(loaded[0]["trumpet"].mapped)
        notes = (Note(0.05, 0.9, 67, 90),)
        plain = sampler.play([Lane(notes)], 1.0, np.random.default_rng(0))
        soft = sampler.play([Lane(notes, None, np.full(200, 0.25))], 1.0, np.random.default_rng(0))
        assert np.allclose(soft, 0.25 * plain, atol=1e-6)

    def test_the_same_sound_whatever_was_played_before(self, loaded):
        mapped = loaded[0]["bass"].mapped
        notes = tuple(Note(0.1 * n, 0.09, 36 + n, 60 + 5 * n) for n in range(8))
        lanes = [Lane(notes[::2], np.linspace(-1, 1, 200)), Lane(notes[1::2])]
        used, fresh = shared_sampler(mapped), Sampler(mapped)
        used.play(lanes[:1], 0.7, np.random.default_rng(9))  # it is left in the middle of notes
        again = [sampler.play(lanes, 1.0, np.random.default_rng(3)) for sampler in (used, fresh, used)]
        assert np.array_equal(again[0], again[1]) and np.array_equal(again[0], again[2])
        assert not np.array_equal(again[0], used.play(lanes, 1.0, np.random.default_rng(4)))  # other round robins

    def test_round_robins_never_come_twice_running(self, loaded):
        sampler = shared_sampler(loaded[0]["bass"].mapped)
        notes = tuple(Note(0.25 * n, 0.1, 43, 90) for n in range(4))
        sound = sampler.play([Lane(notes)], 1.5, np.random.default_rng(0))
        first, second, third, fourth = (sound[:, 12_000 * n + 600 : 12_000 * n + 4_500] for n in range(4))
        assert np.allclose(first, third, atol=1e-5) and np.allclose(second, fourth, atol=1e-5)
        assert not np.allclose(first, second, atol=1e-4)

    def test_a_key_struck_again_sounds_again(self, loaded):
        sampler = shared_sampler(loaded[0]["alto_sax"].mapped)  # struck early: before the note in front ends
        notes = (Note(0.1, 0.296, 65, 90), Note(0.4, 0.3, 65, 90))
        sound = np.abs(sampler.play([Lane(notes)], 1.0, np.random.default_rng(0))).max(axis=0)
        assert sound[round(0.5 * RATE) : round(0.6 * RATE)].max() > 0.3 * sound.max()

    def test_notes_end_inside_the_take(self, loaded):
        sampler = shared_sampler(loaded[0]["alto_sax"].mapped)
        sound = np.abs(sampler.play([Lane((Note(0.1, 5.0, 65, 90),))], 0.8, np.random.default_rng(0)))
        assert sound[:, -480:].max() < 0.02 * sound.max()

    def test_zones_of_fewer_round_robins_sound_each_time(self):
        zone = Zone((40, 50), (0, 127), robin=2, robins=2)
        assert [zone.sounds(44, 80, robin, 0) for robin in (1, 2, 3, 4)] == [False, True, False, True]
