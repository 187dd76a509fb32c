"use strict";

// The chart as a grid with the bar that sounds, who plays, the tempo by tapping, and the take as a file.
// Loaded before player.js, whose `$`, `say` and `change` it calls.
const LONGEST_TAKE = 900; // seconds that can be downloaded

let full = []; // the band that is asked for, those who are silent among them
const silent = new Set();
let grid = []; // chords of each bar, until the bars come again
let taps = [], take = [], takeFrames = 0;

function showSheet({ tempo, key, bars, instruments }) {
  $("sheet").textContent = `${Math.round(tempo)} BPM, ${key}`;
  if (JSON.stringify(bars) !== JSON.stringify(grid)) {
    grid = bars;
    $("grid").replaceChildren(...bars.map((chords, at) => {
      const cell = Object.assign(document.createElement("li"), { textContent: chords.join(" ") });
      cell.setAttribute("aria-label", `bar ${at + 1}: ${chords.join(", ")}`);
      return cell;
    }));
  }
  if (!silent.size && instruments.join() !== full.join()) {
    full = instruments;
    showPlayers();
  }
}

function showPlayers() {
  $("band-row").hidden = !full.length;
  $("players").replaceChildren(...full.map((name) => {
    const box = Object.assign(document.createElement("input"), { type: "checkbox", checked: !silent.has(name) });
    box.addEventListener("change", () => {
      if (box.checked) silent.delete(name);
      else if (silent.size + 1 < full.length) silent.add(name);
      else {
        box.checked = true;
        say("Somebody has to play", true);
      }
    });
    const label = document.createElement("label");
    label.append(box, name.replaceAll("_", " "));
    return label;
  }));
}

// Who is to play, where somebody is silent; null where the words, or the field of the band, say it.
function playing() {
  return silent.size ? full.filter((name) => !silent.has(name)) : null;
}

function everybodyPlays() {
  silent.clear();
  full = [];
}

// `bar`: counted from 1, on through the chart's loops.
function soundingBar(bar) {
  const at = grid.length ? (((bar - 1) % grid.length) + grid.length) % grid.length : -1;
  Array.from($("grid").children).forEach((cell, each) => {
    cell.classList.toggle("now", each === at);
    if (each === at) cell.setAttribute("aria-current", "true");
    else cell.removeAttribute("aria-current");
  });
}

function tap() {
  const now = performance.now();
  if (taps.length && now - taps.at(-1) > 2500) taps = [];
  taps = [...taps, now].slice(-8);
  if (taps.length < 3) return say(`Tap on: ${taps.length} of 3`);
  const beat = (taps.at(-1) - taps[0]) / (taps.length - 1);
  $("tempo").value = Math.max(40, Math.min(320, Math.round(60000 / beat)));
  say(`${$("tempo").value} beats a minute`);
  change();
}

function newTake() {
  take = [];
  takeFrames = 0;
  $("download").disabled = true;
}

// Interleaved stereo joins the take.
function keepTake(samples) {
  if (takeFrames > LONGEST_TAKE * 48000) return;
  take.push(Int16Array.from(samples, (value) => Math.round(32767 * Math.max(-1, Math.min(1, value)))));
  takeFrames += samples.length / 2;
  $("download").disabled = false;
}

function downloadTake() {
  const head = new DataView(new ArrayBuffer(44)), bytes = 4 * takeFrames;
  const text = (at, word) => [...word].forEach((letter, i) => head.setUint8(at + i, letter.charCodeAt(0)));
  [[0, "RIFF"], [8, "WAVEfmt "], [36, "data"]].forEach(([at, word]) => text(at, word));
  for (const [at, value] of [[4, 36 + bytes], [16, 16], [24, 48000], [28, 192000], [40, bytes]]) head.setUint32(at, value, true);
  for (const [at, value] of [[20, 1], [22, 2], [32, 4], [34, 16]]) head.setUint16(at, value, true);
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([head, ...take], { type: "audio/wav" }));
  link.download = "rtjazz-take.wav";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}
