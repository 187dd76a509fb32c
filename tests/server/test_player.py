"""The player in a browser: a click, and there is music, which can be steered."""

from __future__ import annotations

import pytest
import soundfile
from browsing import serious_findings
from served import WAIT, wait_for


@pytest.fixture
def page(browser, server):
    page = browser.new_page(viewport={"width": 360, "height": 740})
    page.set_default_timeout(WAIT * 1000)
    page.problems, page.elsewhere = [], []
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.on("console", lambda line: page.problems.append(line.text) if line.type == "error" else None)
    page.on("request", lambda r: page.elsewhere.append(r.url) if not r.url.startswith(server.url) else None)
    page.goto(server.url)
    yield page
    page.close()


def until(page, condition):
    wait_for(
        lambda: page.evaluate(f"Boolean({condition})")
    )  # Playwright's own waiting is against the page's policy


def test_goes_on_when_its_session_is_lost(page, server):
    page.fill("#tempo", "222")
    page.click("#play")
    until(page, "rtjazz.blocks > 4 && rtjazz.kept > 0")
    (seat,) = server.engine.seats
    seat.ending = "failed"
    until(page, "rtjazz.state === 'stopped'")
    assert "could not be made" in page.text_content("#status")
    until(page, "rtjazz.state === 'playing' && rtjazz.blocks > 2 && rtjazz.tempo === 222")  # by itself
    (again,) = server.engine.seats
    assert again is not seat and again.session.seed == seat.session.seed  # with its state
    page.click("#play")
    until(page, "rtjazz.state === 'stopped'")


def test_plays_opus(page, server):
    pytest.importorskip("av", reason="Opus packets (the opus extra)")
    until(page, "!document.getElementById('opus-row').hidden")
    page.check("#opus")
    page.click("#play")
    until(page, "rtjazz.blocks > 12 && rtjazz.peak > 0.001 && rtjazz.played > 0 && rtjazz.chord")
    state = page.evaluate("rtjazz")
    assert state["bytes"] < state["blocks"] * 7680 * 8 / 6  # of a block in float32
    page.click("#play")
    until(page, "rtjazz.state === 'stopped'")
    assert page.problems == []


def test_plays(page, server):
    assert page.evaluate("document.documentElement.scrollWidth") <= 360  # a phone's width is enough
    page.click("#play")
    until(page, "rtjazz.blocks > 4 && rtjazz.peak > 0.001 && rtjazz.played > 0 && rtjazz.chord")
    assert page.text_content("#play") == "Stop" and page.text_content("#chord") not in ("", "–")
    assert page.text_content("#place").startswith("bar ")

    page.fill("#tempo", "222")
    page.fill("#chords", "Am7 | D7")
    until(page, "rtjazz.updates > 0 && rtjazz.tempo === 222 && ['Am7', 'D7'].includes(rtjazz.chord)")
    page.fill("#prompt-b", "bossa nova")
    page.fill("#mix", "40")
    until(page, "rtjazz.updates > 1")
    assert page.text_content("#mix-value") == "60 : 40"
    page.fill("#chords", "H7")
    until(page, "rtjazz.errors === 1")
    assert "H7" in page.text_content("#status")

    state = page.evaluate("rtjazz")
    assert state["gaps"] >= 0 and state["gapSeconds"] >= 0 and state["firstSound"] > 0
    page.click("#play")
    until(page, "rtjazz.state === 'stopped'")
    assert page.text_content("#play") == "Play" and page.text_content("#status") == "Stopped"
    assert [text for text in page.problems if "H7" not in text] == []
    assert [url for url in page.elsewhere if not url.startswith(("data:", "blob:"))] == []


def test_a_chart_file_is_read_and_practised(page, server, tmp_path):
    file = tmp_path / "tune.txt"
    file.write_text("title: Mine\nkey: F\nGm7 | C7 | Fmaj7 | D7\n")
    page.set_input_files("#chart-file", file)
    until(page, "document.getElementById('chords').value.includes('Gm7 | C7')")
    assert "Mine, 4 bars" in page.text_content("#status")
    page.evaluate("document.querySelector('details').open = true")
    page.fill("#only-bars", "1-2")
    page.fill("#transpose", "+2")
    page.fill("#ramp", "300:320/1+10")
    page.fill("#count-in", "1")
    page.click("#play")
    until(page, "rtjazz.blocks > 2 && ['Am7', 'D7'].includes(rtjazz.chord)")
    until(page, "rtjazz.tempo === 310")  # of the second chorus
    page.click("#play")
    until(page, "rtjazz.state === 'stopped'")
    page.set_input_files("#chart-file", {"name": "x.txt", "mimeType": "text/plain", "buffer": b"C | H9x"})
    until(page, "document.getElementById('status').textContent.includes('not read')")
    assert [text for text in page.problems if "422" not in text] == []


def test_shows_the_chart_and_who_plays_and_keeps_the_take(page, server):
    page.fill("#chords", "Dm7 | G7 Db7 | Cmaj7 | %")
    page.fill("#tempo", "240")
    page.click("#play")
    until(page, "rtjazz.played > 0 && document.querySelectorAll('#grid li').length === 4")
    assert page.get_attribute("#grid li:nth-child(2)", "aria-label") == "bar 2: G7, Db7"
    until(page, "document.querySelector('#grid .now')?.getAttribute('aria-current') === 'true'")
    band = page.evaluate("full")
    assert len(band) > 1 and page.text_content("#players").startswith(band[0])
    page.uncheck("#players input >> nth=0")
    until(page, "rtjazz.updates > 0")
    (seat,) = server.engine.seats
    wait_for(lambda: seat.session.lead_sheet.instruments == tuple(band[1:]))
    for _ in range(4):
        page.click("#tap")
    assert 40 <= int(page.input_value("#tempo")) <= 320 and page.input_value("#tempo") != "240"
    page.click("#play")
    until(page, "rtjazz.state === 'stopped'")
    with page.expect_download() as download:
        page.click("#download")
    take = soundfile.info(download.value.path())
    assert (take.samplerate, take.channels) == (48000, 2) and take.frames >= 640
    assert page.evaluate("document.documentElement.scrollWidth") <= 360 and page.problems == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_stands_in_the_way_of_a_screen_reader(browser, server, scheme):
    page = browser.new_page(color_scheme=scheme, viewport={"width": 390, "height": 844})
    page.goto(server.url)
    page.evaluate("document.querySelectorAll('[hidden]').forEach((each) => (each.hidden = false))")
    page.evaluate("showSheet({ tempo: 132, key: 'C', bars: [['Dm7'], ['G7']], instruments: ['piano', 'bass'] })")
    page.evaluate("stand.mark($('grid'), 2)")
    assert serious_findings(page) == []
    page.close()
