"""The keys and the screen of `rtjazz play`."""

from __future__ import annotations

import os
import time

import pytest

from rtjazz_hf.cli.play_screen import Controls, Screen, chart_line, keys, parse_mix
from rtjazz_hf.live.outputs import PacedOutput
from rtjazz_hf.live.playback import Player

CHART = "Dm7 | G7 | Cmaj7 | %"
FAST = {"num_inference_steps": 1, "guidance_scale": 1.0, "window_frames": 36}


class TestKeys:
    @pytest.fixture
    def controls(self, tiny_pipeline):
        session = tiny_pipeline.live(
            "swing", chords=CHART, tempo=120, instruments=["piano", "bass", "drums"], **FAST
        )
        player = Player(session, PacedOutput())
        return Controls(player, "swing", chords=CHART, instruments=["piano", "bass", "drums"])

    def type(self, controls, text):
        for key in text:
            controls.press(key)

    def test_tempo(self, controls):
        self.type(controls, "++-")
        assert controls.session.lead_sheet.tempo == 122
        self.type(controls, "t95.5\n")
        assert controls.session.lead_sheet.tempo == 95.5
        self.type(controls, "t9000\n")
        assert "tempo 9000" in controls.message and controls.session.lead_sheet.tempo == 95.5
        self.type(controls, "tfast\n")
        assert "beats per minute" in controls.message

    def test_key_keeps_the_place(self, controls):
        controls.session.align(120, 9.0, 0.0)
        self.type(controls, "kkj")
        line, sheet = controls.session.coming
        assert sheet.spans[0].chord.root == 3 and sheet.beat_at(line) == pytest.approx(12)

    def test_practice_of_the_chart(self, controls):
        self.type(controls, "b2-3\n")
        assert controls.session.lead_sheet.to_text().startswith("4/4 G7 | Cmaj7 | G7")
        self.type(controls, "kk")
        assert controls.session.lead_sheet.spans[0].chord.root == 9  # still those bars
        self.type(controls, "s0\n")
        assert controls.session.lead_sheet.swing == 0.0
        self.type(controls, "rpiano/2\n")
        sheet = controls.session.lead_sheet
        assert "piano" not in sheet.position(sheet.time_of(9.0)).section.instruments
        self.type(controls, "b-\n")
        assert controls.practice == {"swing": "0", "rests": "piano/2"}
        assert [span.chord.root for span in controls.session.lead_sheet.spans[:2]] == [4, 9]
        self.type(controls, "f")
        assert len({span.chord.root for span in controls.session.lead_sheet.spans}) == 12
        self.type(controls, "fb9-\n")
        assert "only bars '9-'" in controls.message and "all keys" not in controls.practice

    def test_practice_wants_a_chart(self, tiny_pipeline):
        session = tiny_pipeline.live("swing", tempo=120, **FAST)
        controls = Controls(Player(session, PacedOutput()), "swing")
        self.type(controls, "b2-3\n")
        assert "no chart" in controls.message

    def test_key_of_the_band_leaders_own_tune(self, tiny_pipeline):
        session = tiny_pipeline.live("swing", key="C", tempo=120, **FAST)
        controls = Controls(Player(session, PacedOutput()), "swing")
        controls.press("k")
        assert session.lead_sheet.key in ("Db", "C#")

    def test_mutes(self, controls):
        assert controls.band == ["piano", "bass", "drums"]
        self.type(controls, "1")
        assert set(controls.session.lead_sheet.instruments) == {"bass", "drums"}
        self.type(controls, "2")
        self.type(controls, "3")
        assert "last that plays" in controls.message
        self.type(controls, "12")
        assert set(controls.session.lead_sheet.instruments) == {"piano", "bass", "drums"}
        self.type(controls, "9")
        assert "no instrument 9" in controls.message

    def test_a_new_prompt_brings_its_own_band(self, tiny_pipeline):
        session = tiny_pipeline.live("hard bop quintet", tempo=120, seed=1, **FAST)
        controls = Controls(Player(session, PacedOutput()), "hard bop quintet")
        band = list(controls.band)
        self.type(controls, "1")
        assert list(session.lead_sheet.instruments) == band[1:]  # nobody fills the place
        self.type(controls, "pbossa nova, nylon guitar and bass\n")
        assert controls.muted == set() and "guitar" in controls.band
        assert controls.band == list(session.lead_sheet.instruments)

    def test_prompt_and_mix(self, controls):
        self.type(controls, ">")
        assert "one prompt has no mix" in controls.message
        self.type(controls, "p0.5 bossa nova + 0.5 fast bebopp\x7f\n")
        assert controls.mix == {"bossa nova": 0.5, "fast bebop": 0.5}
        self.type(controls, ">>")
        assert controls.mix["fast bebop"] == pytest.approx(0.7)
        self.type(controls, "<" * 12)
        assert controls.mix["fast bebop"] == pytest.approx(0.0, abs=1e-9)
        self.type(controls, "pnothing\x1b")
        assert controls.asking is None and "nothing" not in controls.mix

    def test_a_chart_waits_for_the_bar_line_or_does_not(self, controls):
        next(controls.session)
        self.type(controls, "cC6 | F9\nk")
        assert controls.message.startswith("key ") and controls.session.coming[1].spans[0].chord.root == 1
        self.type(controls, "cC6 | F9\n")
        assert controls.message == "new chart at the next bar line"
        self.type(controls, "CBb6 | Eb9 | Bb6\n")
        assert controls.session.coming is None and controls.session.lead_sheet.spans[0].chord.symbol == "Bb6"

    def test_chords_adapter_and_quit(self, controls):
        self.type(controls, "cEbm7 | Ab7\n")
        assert controls.session.lead_sheet.spans[0].chord.symbol == "Ebm7"
        self.type(controls, "cHm7\n")
        assert "Hm7" in controls.message
        self.type(controls, "a")
        assert "--adapter" in controls.message
        self.type(controls, "q")
        controls.player.run()  # ends at once

    def test_screen(self, controls):
        pytest.importorskip("rich")
        controls.player.duration = 0.5
        controls.player.run()
        with Screen(controls.player, controls, "play") as screen:
            text = "\n".join(screen.lines())
            screen.render()
        assert "bar 1" in text and "120.0 BPM" in text and "1:piano" in text and "under-runs 0" in text
        assert chart_line(controls.session.lead_sheet, 0.1) == "[Dm7] | G7 | Cmaj7 | Cmaj7"

    def test_keys_of_a_terminal(self):
        pty = pytest.importorskip("pty")
        master, slave = pty.openpty()
        pressed = []
        with os.fdopen(slave) as stream, keys(pressed.append, stream):
            os.write(master, "k+é".encode())
            time.sleep(0.3)
        os.close(master)
        assert pressed == ["k", "+", "é"]

    @pytest.mark.parametrize(
        ("text", "mix"),
        [
            ("hard bop", "hard bop"),
            ("0.7 hard bop + 0.3 bossa nova", {"hard bop": 0.7, "bossa nova": 0.3}),
            ("bebop + 2 waltz", {"bebop": 1.0, "waltz": 2.0}),
            ("1950s bebop", "1950s bebop"),
        ],
    )
    def test_mix_as_it_is_typed(self, text, mix):
        assert parse_mix(text) == mix

    def test_a_mix_without_words(self):
        with pytest.raises(ValueError, match="part without words"):
            parse_mix("bebop + ")
