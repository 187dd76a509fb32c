"use strict";

// What player.js, whose `$`, `say` and `change` are called here, keeps of the stand (stand.js).
const LONGEST_TAKE = 900; // seconds that can be downloaded

let full = []; // the band that is asked for, those who are silent among them
const silent = new Set();
let grid = []; // chords of each bar, until the bars come again
let take = [], takeFrames = 0;

function showSheet({ tempo, key, bars, instruments }) {
  $("sheet").textContent = `${Math.round(tempo)} BPM, ${key}`;
  if (JSON.stringify(bars) !== JSON.stringify(grid)) {
    grid = bars;
    stand.draw($("grid"), bars);
  }
  if (!silent.size && instruments.join() !== full.join()) {
    full = instruments;
    $("band-row").hidden = !full.length;
    stand.players($("players"), full, silent, (text) => say(text, true));
  }
}

// Who is to play, where somebody is silent; null where the words, or the field of the band, say it.
function playing() {
  return silent.size ? full.filter((name) => !silent.has(name)) : null;
}

function everybodyPlays() {
  silent.clear();
  full = [];
}

function tap() {
  const tempo = stand.tap();
  if (tempo === null) return say(`Tap on: ${stand.taps} of 3`);
  $("tempo").value = tempo;
  say(`${tempo} beats a minute`);
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
  take.push(stand.pcm(samples));
  takeFrames += samples.length / 2;
  $("download").disabled = false;
}
