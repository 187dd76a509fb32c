import { interleaved, openOutput, RATE } from "./output.js";

const $ = (id) => document.getElementById(id);
const AHEAD = 1.5, MOST_AHEAD = 6; // seconds in hand where the device keeps up; twice as many after a gap
const SLOW_AHEAD = 30; // and where it does not: so much is rendered before it plays on
const FEED = 2; // seconds that the output has of it; the rest waits here
const LONGEST_TAKE = 900; // seconds that can be downloaded

// What can be read from outside: a test, or the console.
const rtjazz = (window.rtjazz = {
  state: "stopped", blocks: 0, gaps: 0, gapSeconds: 0, played: 0, inHand: 0, peak: 0, chord: "", bar: 0, beat: 0, tempo: 0,
  factor: 0, errors: 0, slow: false, firstSound: null, loaded: null, mended: [], takeSeconds: 0, fetchedBytes: null,
  blockSeconds: 0,
  onblock: null, // called with each block
});

let sound = null, engine = null, notes = null, ready = null, blockSeconds = 0.48, started = 0;
let queue = [], asked = 0, take = [], shown = [], fed = 0, playedBefore = 0, muted = new Set(), sheet = null, holding = false;
let factors = [], ahead = AHEAD;

let wrongUntil = 0; // what was wrong stays to be read for some seconds

function say(text, isError = false) {
  if (isError) wrongUntil = performance.now() + 6000;
  else if (performance.now() < wrongUntil) return;
  $("status").textContent = text;
  $("status").className = isError ? "error" : "";
}

function wishes() {
  const players = sheet ? sheet.full.filter((name) => !muted.has(name)) : null;
  return {
    prompt: $("prompt").value.trim() || "swing", chords: $("chords").value.trim(),
    tempo: Number($("tempo").value) || null, seed: Number($("seed").value) || 0,
    ...(muted.size ? { instruments: players } : {}),
  };
}

// -- the workers ---------------------------------------------------------------------------------------------------
function load() {
  if (ready) return ready;
  if (location.protocol === "file:") {
    return Promise.reject(new Error("A page that is opened from a disk may not read its own files: serve the folder, " +
      "such as with: python3 -m http.server"));
  }
  if (!window.WebAssembly || !window.Worker) return Promise.reject(new Error("This browser has no WebAssembly."));
  ready = keptPage.then(() => new Promise((resolve, reject) => {
    const channel = new MessageChannel();
    notes = new Worker("band.js", { type: "module" });
    engine = new Worker("engine.js", { type: "module" });
    notes.postMessage(null, [channel.port1]);
    engine.postMessage({ type: "band" }, [channel.port2]);
    engine.postMessage({ type: "load" });
    for (const worker of [engine, notes]) {
      worker.onerror = (event) => reject(new Error(event.message || "A part of the page cannot be loaded."));
    }
    engine.onmessage = ({ data }) => {
      if (data.type === "ready") {
        blockSeconds = data.settings.block_frames / 75;
        Object.assign(rtjazz, { loaded: data.seconds, fetchedBytes: data.fetchedBytes, blockSeconds });
        resolve();
      } else if (data.type === "error" && data.fatal) {
        reject(new Error(data.text));
      } else handlers[data.type](data);
    };
  }));
  ready.catch(() => { // the next Play tries again
    for (const worker of [engine, notes]) worker?.terminate();
    engine = notes = ready = null;
  });
  return ready;
}

// A service worker keeps the page itself, so that it opens without a connection; the model is kept by weights.js. A
// browser that has none, or a page without https, plays all the same.
const keptPage = (async () => {
  if (!navigator.serviceWorker) return;
  const patience = new Promise((resolve) => setTimeout(resolve, 5000));
  const controlled = new Promise((resolve) => {
    if (navigator.serviceWorker.controller) resolve();
    navigator.serviceWorker.addEventListener("controllerchange", resolve);
  });
  const registered = await navigator.serviceWorker.register("offline.js").then(() => true, () => false);
  if (registered) await Promise.race([controlled, patience]);
})();

const handlers = {
  progress: ({ done, all }) => {
    $("progress").hidden = done >= all;
    Object.assign($("progress"), { max: all, value: done });
    say(done >= all ? "Getting ready …" : `Fetching the model: ${(done / 1e6).toFixed(0)} of ${(all / 1e6).toFixed(0)} MB`);
  },
  mended: ({ files }) => {
    rtjazz.mended = files;
    say(`${files.join(", ")} was kept here and is broken: it is fetched again`);
  },
  sheet: ({ sheet: told }) => {
    const full = muted.size && sheet ? sheet.full : told.instruments;
    sheet = { ...told, full };
    rtjazz.tempo = told.tempo;
    showSheet();
    if (rtjazz.state === "playing") say(playing());
  },
  begun: () => {
    rtjazz.state = "playing";
    say("Playing");
    pump();
  },
  block: (block) => {
    asked -= 1;
    if (rtjazz.state !== "playing") return;
    rtjazz.blocks += 1;
    rtjazz.onblock?.(block);
    factors = [...factors.slice(-7), block.seconds / blockSeconds];
    rtjazz.factor = factors.reduce((sum, each) => sum + each, 0) / factors.length;
    for (let i = 0; i < block.left.length; i += 7) rtjazz.peak = Math.max(rtjazz.peak, Math.abs(block.left[i]));
    if (rtjazz.takeSeconds < LONGEST_TAKE) {
      take.push(stand.pcm(interleaved(block)));
      rtjazz.takeSeconds += blockSeconds;
      $("download").disabled = false;
    }
    queue.push(block);
    if (!rtjazz.slow && factors.length >= 4 && rtjazz.factor > 0.95) beSlow();
    else if (rtjazz.slow && factors.length >= 8 && rtjazz.factor < 0.8) keepUp();
    pump();
  },
  error: ({ text }) => {
    rtjazz.errors += 1;
    say(text, true);
    if (rtjazz.state === "starting") stop(text);
  },
};

function playing() {
  return rtjazz.slow
    ? "This device cannot keep up: it plays what was rendered ahead, and stops to render more"
    : "Playing";
}

function beSlow() {
  rtjazz.slow = holding = true;
  say(`This device cannot keep up (a second takes ${rtjazz.factor.toFixed(1)} s): ${SLOW_AHEAD} s are rendered ahead`);
}

function keepUp() {
  rtjazz.slow = holding = false;
  say("Playing");
}

// Hand on what is wanted next, and have as much made as should be in hand.
function pump() {
  if (!sound || rtjazz.state !== "playing") return;
  const waiting = queue.length * blockSeconds;
  if (holding) {
    if (waiting + rtjazz.inHand >= SLOW_AHEAD) holding = false;
    else say(`This device cannot keep up: ${Math.floor(waiting)} of ${SLOW_AHEAD} s are rendered ahead`);
  } else if (rtjazz.slow && !queue.length && rtjazz.inHand < 0.1) holding = true;
  while (!holding && queue.length && fed - (rtjazz.played - playedBefore) < FEED * RATE) {
    const block = queue.shift();
    shown.push({ from: fed, info: block.info });
    fed += block.left.length;
    sound.output.feed(block);
  }
  const inHand = fed / RATE - (rtjazz.played - playedBefore) / RATE + queue.length * blockSeconds;
  const want = Math.ceil(((rtjazz.slow ? SLOW_AHEAD : ahead) - inHand) / blockSeconds) - asked;
  if (want > 0) {
    asked += want;
    engine.postMessage({ type: "allow", blocks: want });
  }
}

// -- what is seen --------------------------------------------------------------------------------------------------
function showSheet() {
  $("sheet").textContent = `${Math.round(sheet.tempo)} BPM, ${sheet.key}`;
  stand.draw($("grid"), sheet.bars);
  stand.players($("players"), sheet.full, muted, (text) => say(text, true));
}

function heard({ played, gaps, gapSeconds, inHand }) {
  if (gaps > rtjazz.gaps) ahead = Math.min(MOST_AHEAD, 2 * ahead);
  Object.assign(rtjazz, { played, gaps, gapSeconds, inHand });
  const frame = played - playedBefore;
  if (rtjazz.firstSound === null && rtjazz.state === "playing" && frame > 0)
    rtjazz.firstSound = (performance.now() - started) / 1000;
  while (shown.length > 1 && shown[1].from <= frame) shown.shift();
  if (shown.length && rtjazz.state === "playing" && frame > 0) {
    const { from, info } = shown[0], seconds = Math.max(0, frame - from) / RATE;
    const beat = info.beat - 1 + (seconds * info.tempo) / 60, bar = info.bar + Math.floor(beat / info.beats_per_bar);
    rtjazz.chord = info.chords.filter(([at]) => at <= seconds + 1e-3).at(-1)?.[1] ?? rtjazz.chord;
    rtjazz.bar = bar;
    rtjazz.beat = Math.floor(beat % info.beats_per_bar) + 1;
    $("chord").textContent = rtjazz.chord;
    $("place").textContent = `bar ${bar} beat ${rtjazz.beat}`;
    stand.mark($("grid"), bar);
  }
  $("stats").textContent = rtjazz.blocks
    ? `a second takes ${rtjazz.factor.toFixed(2)} s, ${gaps} gaps, ${inHand.toFixed(1)} s in hand` : "";
  pump();
}

// -- what is done --------------------------------------------------------------------------------------------------
async function start() {
  $("play").disabled = true;
  rtjazz.state = "starting";
  wrongUntil = 0;
  say("Getting ready …");
  try {
    sound ??= await openOutput();
    sound.output.onreport = heard;
    await sound.context.resume();
    await load();
    Object.assign(rtjazz, { blocks: 0, peak: 0, firstSound: null, takeSeconds: 0, slow: false, factor: 0 });
    [queue, take, shown, factors, asked, fed, holding] = [[], [], [], [], 0, 0, false];
    muted.clear();
    sheet = null;
    playedBefore = rtjazz.played;
    started = performance.now();
    engine.postMessage({ type: "begin", wishes: wishes() });
    $("play").textContent = "Stop";
    if (sound.plain) say("This browser has no AudioWorklet: it plays all the same, with more in hand");
  } catch (error) {
    stop(error.message);
  } finally {
    $("play").disabled = false;
  }
}

function stop(problem = "") {
  engine?.postMessage({ type: "stop" });
  sound?.output.reset();
  rtjazz.state = "stopped";
  queue = [];
  wrongUntil = 0;
  $("play").textContent = "Play";
  $("progress").hidden = true;
  say(problem || "Stopped", Boolean(problem));
}

let timer = null, sent = "";
function change() {
  clearTimeout(timer);
  timer = setTimeout(() => {
    const music = wishes();
    if (rtjazz.state !== "playing" || JSON.stringify(music) === sent) return;
    sent = JSON.stringify(music);
    engine.postMessage({ type: "wish", wishes: music });
  }, 300);
}

function tap() {
  const tempo = stand.tap();
  if (tempo === null) return say(`Tap on: ${stand.taps} of 3`);
  $("tempo").value = tempo;
  change();
}

$("play").addEventListener("click", () => (rtjazz.state === "stopped" ? start() : stop()));
$("tap").addEventListener("click", tap);
$("download").addEventListener("click", () => stand.download(take));
$("controls").addEventListener("input", change);
$("controls").addEventListener("submit", (event) => event.preventDefault());
