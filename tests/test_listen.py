"""The listening page: its clips are made anew from the commands beside them, and play from a disk."""

from __future__ import annotations

import functools
import http.server
import shlex
import shutil
import threading

import pytest
from browsing import serious_findings, until
from scripts import ROOT, load_script

from rtjazz_hf import cli, write_lead_sheet
from rtjazz_hf.audio import read_audio

SHORT = {"chords": "Dm7 | G7", "tempo": 240}


@pytest.fixture(scope="module")
def script(tiny_folder):
    module = load_script("make_clips", "docs/listen")
    module.MEANT = module.CLIPS
    module.CLIPS = (
        module.Clip("one", "One", "Two bars.", prompt="swing", bars=2, options=SHORT, group="same"),
        module.Clip("two", "Two", "The same again.", prompt="swing", bars=2, options=SHORT, group="same"),
        module.Clip("changed", "Changed", "A change.", how="live", prompt="swing", options=SHORT,
                    changes=((0.4, {"chords": "Fm7 | % | Bb7 | %"}),)),
    )  # fmt: skip
    module.LIVE_SECONDS = 1.5
    return module


@pytest.fixture(scope="module")
def page(script, tiny_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("listen")
    for name in ("index.html", "listen.js", "listen.css"):
        shutil.copy(ROOT / "docs" / "listen" / name, folder)
    assert script.main(["--model", str(tiny_folder), "-o", str(folder / "clips")]) == 0
    return folder


def test_the_clips_are_what_was_meant(script):
    clips = script.MEANT
    assert 8 <= len(clips) <= 12 and len({clip.name for clip in clips}) == len(clips)
    for clip in clips:
        assert not clip.of or clip.of in {each.name for each in clips}
        if clip.how == "generated":
            sheet = write_lead_sheet(clip.prompt, **clip.options, seed=clip.seed)
            assert 10 <= sheet.bar_start(clip.bars) * 60 / sheet.tempo <= 20, clip.name


def test_the_command_beside_it_makes_a_clip(script, page, tiny_folder, tmp_path):
    clip = script.CLIPS[0]
    arguments = shlex.split(clip.command)
    assert arguments[0] == "rtjazz"
    arguments[arguments.index("-o") + 1] = str(tmp_path / "one.wav")
    assert cli.main([*arguments[1:], "--model", str(tiny_folder)]) == 0
    want = script.decoded(script.opus(script.finished(read_audio(tmp_path / "one.wav"))))
    heard = read_audio(page / "clips" / "one.ogg")
    assert script.difference(heard, want)[1] < -20  # the command's file has 16 bits


def test_clips_made_anew_leave_the_others_where_they_were(script, page, tiny_folder, tmp_path):
    folder = tmp_path / "clips"
    shutil.copytree(page / "clips", folder)
    listed = [*script.read_list(folder).values(), {"name": "style-1-before", "title": "a style that is not given"}]
    script.write_list(folder, listed)
    assert script.main(["--model", str(tiny_folder), "-o", str(folder), "--only", "one"]) == 0
    assert list(script.read_list(folder).values()) == listed


def test_a_check_says_which_differ(script, page, tiny_folder, tmp_path, capsys):
    folder = tmp_path / "clips"
    shutil.copytree(page / "clips", folder)
    options = ["--model", str(tiny_folder), "-o", str(folder), "--check", "--only", "one", "two"]
    (folder / "two.ogg").write_bytes((folder / "changed.ogg").read_bytes())
    capsys.readouterr()
    assert script.main(options) == 1
    told = capsys.readouterr().out
    assert "1 of 2 clips are the same, not two" in told and "DIFFERS" in told
    assert script.main(["--only", "three"]) == 1 and "choose from one, two" in capsys.readouterr().err


def test_a_changed_session_has_the_bars_of_both_charts(script, page):
    entry = script.read_list(page / "clips")["changed"]
    chords = [chord for bar in entry["bars"] for chord in bar["chords"]]
    assert chords[0] == "Dm7" and "Fm7" in chords
    starts = [bar["start"] for bar in entry["bars"]]
    assert starts == sorted(set(starts)) and starts[-1] < 1.6


def test_the_page_plays_from_a_disk(browser, page):
    tab = browser.new_page(viewport={"width": 360, "height": 740})
    problems, elsewhere = [], []
    tab.on("pageerror", lambda error: problems.append(str(error)))
    tab.on("console", lambda line: problems.append(line.text) if line.type == "error" else None)
    tab.on("request", lambda each: None if each.url.startswith(page.as_uri()) else elsewhere.append(each.url))
    tab.goto((page / "index.html").as_uri())
    assert tab.evaluate("document.documentElement.scrollWidth") <= 360
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.getAttribute('aria-label')") == "Play: One"
    tab.keyboard.press("Enter")
    until(tab, "listen.cards[0].sound.currentTime > 0.1")
    tab.wait_for_selector("[aria-current]")
    tab.click("#two button")  # of the same group: goes on at the same place
    until(tab, "!listen.cards[1].sound.paused && listen.cards[1].place > 0.1")
    assert tab.evaluate("listen.cards[0].sound.paused")
    tab.focus("#changed input")
    tab.keyboard.press("ArrowRight")
    until(tab, "listen.cards[2].sound.currentTime === 1 || listen.cards[2].pending === 1")
    assert problems == [] and [url for url in elsewhere if not url.startswith("data:")] == []
    tab.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_stands_in_the_way_of_a_screen_reader(browser, page, scheme):
    tab = browser.new_page(color_scheme=scheme, viewport={"width": 390, "height": 844})
    tab.goto((page / "index.html").as_uri())
    until(tab, "listen.cards.length === 3")
    assert serious_findings(tab) == []
    tab.close()


@pytest.mark.slow
@pytest.mark.parametrize("where", ["disk", "host"])
def test_every_clip_of_the_repository_plays(browser, where):
    folder = ROOT / "docs" / "listen"
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    tab, problems = browser.new_page(), []
    tab.on("pageerror", lambda error: problems.append(str(error)))
    tab.on("console", lambda line: problems.append(line.text) if line.type == "error" else None)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        tab.goto((folder / "index.html").as_uri() if where == "disk" else f"http://127.0.0.1:{server.server_port}/")
        until(tab, "listen.cards.length >= 8")
        for at in range(tab.evaluate("listen.cards.length")):
            tab.evaluate(f"listen.cards[{at}].button.click()")
            until(tab, f"!listen.cards[{at}].sound.paused && listen.cards[{at}].sound.currentTime > 0.1")
        server.shutdown()
    assert problems == []
    tab.close()


def test_a_page_without_clips_says_what_makes_them(browser, page, tmp_path):
    for name in ("index.html", "listen.js", "listen.css"):
        shutil.copy(page / name, tmp_path)
    tab = browser.new_page()
    tab.goto((tmp_path / "index.html").as_uri())
    until(tab, "document.getElementById('status').textContent.includes('make_clips.py')")
    tab.close()
