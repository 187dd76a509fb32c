"""Written charts as music21's MusicXML, for round trips."""

from __future__ import annotations

import re

KINDS = {
    "": "major", "m": "minor", "7": "dominant-seventh", "maj7": "major-seventh", "m7": "minor-seventh",
    "m7b5": "half-diminished-seventh", "dim7": "diminished-seventh", "6": "major-sixth", "13": "dominant-13th",
    "7b9": "dominant-seventh",
}  # fmt: skip


def write_musicxml(m, chart) -> bytes:
    part = m.stream.Part()
    metre = None
    measures = []
    for number, bar in enumerate(chart.written, 1):
        measure = m.stream.Measure(number=number)
        measures.append(measure)
        if bar.metre != metre:
            measure.timeSignature = m.meter.TimeSignature(f"{bar.metre.count}/{bar.metre.unit}")
            metre = bar.metre
        at = 0.0
        for span in bar.spans:
            measure.insert(at, _symbol(m, span.chord))
            at += span.beats
        measure.insert(0, m.note.Rest(quarterLength=bar.metre.beats))
        _signs(m, measure, bar)
        part.append(measure)
    _endings(m, part, chart.written, measures)
    score = m.stream.Score()
    score.insert(0, part)
    from music21.musicxml.m21ToXml import GeneralObjectExporter

    return GeneralObjectExporter(score).parse()


def _symbol(m, chord):
    if chord.is_no_chord:
        return m.harmony.NoChord()
    root = re.match("[A-G][#b]*", chord.symbol).group()
    bass = {"bass": chord.symbol.split("/")[-1].replace("b", "-")} if chord.bass != chord.root else {}
    symbol = m.harmony.ChordSymbol(root=root.replace("b", "-"), kind=KINDS[chord.quality], **bass)
    if chord.quality == "7b9":
        symbol.addChordStepModification(m.harmony.ChordStepModification("add", 9, -1))
    return symbol


def _signs(m, measure, bar) -> None:
    if bar.opens:
        measure.leftBarline = m.bar.Repeat(direction="start")
    if bar.closes:
        measure.rightBarline = m.bar.Repeat(direction="end", times=bar.closes)
    if bar.segno:
        measure.insert(0, m.repeat.Segno())
    if bar.coda:
        measure.insert(0, m.repeat.Coda())
    if bar.fine:
        measure.append(m.repeat.Fine())
    if bar.to_coda:
        measure.append(m.repeat.Coda())
    if bar.jump:
        names = {"": "", "fine": "AlFine", "coda": "AlCoda"}
        kind = ("DalSegno" if bar.jump.to_sign else "DaCapo") + names[bar.jump.goal]
        measure.append(getattr(m.repeat, kind)())


def _endings(m, part, bars, measures) -> None:
    index = 0
    while index < len(bars):
        if bars[index].endings:
            end = index
            while not (bars[end].closes or bars[end].double or end + 1 == len(bars) or bars[end + 1].endings):
                end += 1
            number = ",".join(map(str, sorted(bars[index].endings)))
            part.insert(0, m.spanner.RepeatBracket(measures[index : end + 1], number=number))
            index = end
        index += 1
