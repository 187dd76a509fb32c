from pathlib import Path

import pytest

from rtjazz_hf.corpus.sfz import SfzError, read_sfz


@pytest.fixture
def read(tmp_path):
    def write_and_read(text):
        (tmp_path / "a.sfz").write_text(text)
        return read_sfz(tmp_path / "a.sfz")

    return write_and_read


class TestReading:
    def test_regions_inherit_and_headers_end_what_is_below(self, read):
        mapping = read(
            "<global> volume=-3\n<group> pan=10 <region> sample=a b.wav key=60 // one\n"
            "<group> <region> sample=c.wav volume=-6\n<master> cutoff=900 <region> sample=c.wav"
        )
        first, second, third = (region.opcodes for region in mapping.regions)
        assert first == {"volume": "-3", "pan": "10", "sample": "a b.wav", "key": "60"}
        assert second["volume"] == "-6" and "pan" not in second and third["cutoff"] == "900"
        assert [path.name for path in mapping.samples] == ["a b.wav", "c.wav"]

    def test_paths_definitions_and_inclusions(self, instruments_folder):
        mapping = read_sfz(instruments_folder / "trumpet" / "trumpet.sfz")
        (region,) = mapping.regions
        assert region.sample == instruments_folder / "trumpet" / "wav" / "high.wav"
        assert region.opcodes["lokey"] == "40" and region.opcodes["hikey"] == "100"

    @pytest.mark.parametrize(
        ("text", "why"),
        [
            ("<group> volume=1", "no region with a sample"),
            ('#include "a.sfz"', "included by itself"),
            ('<region> sample=a.wav\n#include "gone.inc"', "gone.inc.*cannot be read"),
        ],
    )
    def test_what_is_wrong_is_named(self, read, text, why):
        with pytest.raises(SfzError, match=why):
            read(text)

    def test_a_file_that_is_not_there(self):
        with pytest.raises(SfzError, match="cannot be read"):
            read_sfz(Path("gone.sfz"))


class TestRewriting:
    def test_choices_become_controllers_that_are_free(self, read):
        mapping = read(
            "<group> seq_length=3 locc103=5\n<region> sample=a.wav\n<region> sample=b.wav seq_position=3\n"
            "<group> <region> sample=c.wav lorand=0 hirand=0.5 amp_random=3\n<region> sample=d.wav lorand=0.5 hirand=1"
        )
        robins, dice = mapping.controllers()
        assert 103 not in (*robins.values(), dice) and len({*robins.values(), dice}) == 2
        first, second, low, high = mapping.rewritten(12).splitlines()[1:]
        assert f"locc{robins[3]}=1 hicc{robins[3]}=1" in first and f"hicc{robins[3]}=3" in second
        assert f"locc{dice}=0 hicc{dice}=63" in low and f"locc{dice}=64 hicc{dice}=127" in high
        assert "random" not in low and "seq_" not in first

    def test_samples_in_memory_whole_paths_one_wheel_and_offsets(self, read, tmp_path):
        mapping = read("<control> set_cc7=90 default_path=s/\n<region> sample=a.wav bend_up=200 offset=10")
        control, region = mapping.rewritten(12, {0: 500}).splitlines()
        assert control == "<control> hint_ram_based=1 set_cc7=90"
        assert region.endswith(f"sample={tmp_path / 's' / 'a.wav'}")
        assert "bend_up=1200" in region and "bend_down=-1200" in region and "offset=510" in region

    def test_curves_and_effects_stay(self, read):
        text = read("<region> sample=a.wav\n<curve> curve_index=9 v000=0 v127=1").rewritten(12)
        assert text.endswith("<curve> curve_index=9 v000=0 v127=1\n")
