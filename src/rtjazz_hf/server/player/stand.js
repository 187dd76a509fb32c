"use strict";

// What stands in front of a player, for every page of this package (server, Space, browser): the chart as a grid, the bar
// that sounds, who plays, the tempo by tapping, a count-in, and the take as a file.
globalThis.stand = (() => {
  const RATE = 48000, SLOWEST = 40, FASTEST = 320;

  // `bars`: the chords of each, until the bars come again; into an ordered list.
  function draw(list, bars) {
    list.replaceChildren(...bars.map((chords, at) => {
      const cell = Object.assign(document.createElement("li"), { textContent: chords.join(" ") });
      cell.setAttribute("aria-label", `bar ${at + 1}: ${chords.join(", ")}`);
      return cell;
    }));
  }

  // `bar`: counted from 1, on through the chart's loops.
  function mark(list, bar) {
    const cells = Array.from(list.children), count = cells.length;
    const sounding = count ? (((bar - 1) % count) + count) % count : -1;
    cells.forEach((cell, at) => {
      cell.classList.toggle("now", at === sounding);
      if (at === sounding) cell.setAttribute("aria-current", "true");
      else cell.removeAttribute("aria-current");
    });
  }

  // A box for each player; `silent`, a set, has those whose box is empty, never all. `refuse` says why not.
  function players(holder, names, silent, refuse) {
    holder.replaceChildren(...names.map((name) => {
      const box = Object.assign(document.createElement("input"), { type: "checkbox", checked: !silent.has(name) });
      box.addEventListener("change", () => {
        if (box.checked) silent.delete(name);
        else if (silent.size + 1 < names.length) silent.add(name);
        else {
          box.checked = true;
          refuse("Somebody has to play");
        }
      });
      const label = document.createElement("label");
      label.append(box, name.replaceAll("_", " "));
      return label;
    }));
  }

  let taps = [];
  // The tempo of the last taps, in beats a minute; null until there are three. `stand.taps` says how many.
  function tap() {
    const now = performance.now();
    if (taps.length && now - taps.at(-1) > 2500) taps = [];
    taps = [...taps, now].slice(-8);
    if (taps.length < 3) return null;
    const beat = (taps.at(-1) - taps[0]) / (taps.length - 1);
    return Math.max(SLOWEST, Math.min(FASTEST, Math.round(60000 / beat)));
  }

  // Clicks before the first bar, interleaved stereo, higher on the downbeat; the metre is the chart's, such as 3/4 before
  // its first bar, else 4/4.
  function clicks(bars, tempo, chart) {
    const [, top, unit] = (chart ?? "").match(/^[ \t]*(?:time:[ \t]*)?(\d{1,2})\/(\d)\b/im) || [0, 4, 4];
    const beat = Math.round((RATE * 60 * 4) / unit / tempo), beats = bars * top, samples = new Float32Array(2 * beat * beats);
    for (let each = 0; each < beats; each++) {
      const hz = each % top ? 1200 : 1800;
      for (let i = 0; i < 1440; i++) {
        const click = 0.35 * Math.exp(-i / 240) * Math.sin((2 * Math.PI * hz * i) / RATE);
        samples.fill(click, 2 * (each * beat + i), 2 * (each * beat + i) + 2);
      }
    }
    return samples;
  }

  // Interleaved stereo as 16-bit samples, of which a WAV file is made.
  function pcm(samples) {
    return Int16Array.from(samples, (value) => Math.round(32767 * Math.max(-1, Math.min(1, value))));
  }

  // Hand out pieces of 16-bit samples as a file.
  function download(pieces, name = "rtjazz-take.wav") {
    const head = new DataView(new ArrayBuffer(44)), bytes = pieces.reduce((sum, piece) => sum + piece.byteLength, 0);
    const text = (at, word) => [...word].forEach((letter, i) => head.setUint8(at + i, letter.charCodeAt(0)));
    [[0, "RIFF"], [8, "WAVEfmt "], [36, "data"]].forEach(([at, word]) => text(at, word));
    for (const [at, value] of [[4, 36 + bytes], [16, 16], [24, RATE], [28, 4 * RATE], [40, bytes]]) head.setUint32(at, value, true);
    for (const [at, value] of [[20, 1], [22, 2], [32, 4], [34, 16]]) head.setUint16(at, value, true);
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([head, ...pieces], { type: "audio/wav" }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  }

  return { draw, mark, players, tap, clicks, pcm, download, get taps() { return taps.length; } };
})();
