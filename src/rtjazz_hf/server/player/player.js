"use strict";

const KEY_PROTOCOL = "rtjazz.key.";
const $ = (id) => document.getElementById(id);

// What can be read from outside: a test, or the console.
const rtjazz = (window.rtjazz = {
  state: "stopped", blocks: 0, peak: 0, gaps: 0, gapSeconds: 0, played: 0, inHand: 0, firstSound: null,
  updates: 0, errors: 0, chord: "", bar: 0, beat: 0, tempo: 0, session: null,
  bytes: 0, // of sound that came
  kept: 0, // bytes of the session's state
});

const STATE_EVERY = { f32: 60, opus: 300 }; // seconds: 40 kB/s of 384, or 8 of 16
const PIECE = 65536; // bytes of a message
const LEAD = 0.8; // seconds before the last click is over in which the music is asked for
const TRIES = 20; // to go on, 3 seconds apart

let context = null, player = null, socket = null, decoder = null, resume = null, clicked = 0;
let state = null, tries = 0; // the session's last whole state, with which it goes on at any server
let pieces = [];
let shown = []; // blocks whose chords are still to be shown: first frame, by the player's count, and the message
let received = 0; // frames of this session
let melody = null, melodySent = null; // a MIDI file as base64, and what the session has
let playedBefore = 0; // frames that were played before this session

function say(text, isError = false) {
  $("status").textContent = text;
  $("status").className = isError ? "error" : "";
}

async function prepareSound() {
  if (context === null) {
    context = new AudioContext({ sampleRate: 48000, latencyHint: "playback" });
    await context.audioWorklet.addModule("player/worklet.js");
    player = new AudioWorkletNode(context, "block-player", { numberOfInputs: 0, outputChannelCount: [2] });
    player.connect(context.destination);
    player.port.onmessage = ({ data }) => heard(data);
  }
  await context.resume();
}

function wishes() {
  const music = {};
  const first = $("prompt-a").value.trim(), second = $("prompt-b").value.trim(), mix = Number($("mix").value) / 100;
  if (first && second && first !== second) music.prompt = { [first]: 1 - mix, [second]: mix };
  else music.prompt = first || second || "medium swing piano trio";
  const chords = $("chords").value.trim(), tempo = ramped() || Number($("tempo").value);
  if (chords) music.chords = practised(chords);
  if (tempo) music.tempo = tempo;
  const band = playing() || $("instruments").value.split(",").map((name) => name.trim()).filter(Boolean);
  if (band.length) music.instruments = band;
  music.adapter = $("adapter").value || null;
  if (!$("notes-row").hidden) {
    music.parts = $("free").checked ? "free" : "band";
    if (melody !== melodySent) music.melody = melody;
  }
  return music;
}

// The chart with lines above it that say what is made of it, in place of such lines of its own.
function practised(chords) {
  const asked = ["only-bars", "transpose", "all-keys", "rests", "swing"]
    .map((id) => [id.replace("-", " "), $(id).value.trim()]).filter(([, value]) => value);
  if (!asked.length) return chords;
  const own = new RegExp(`^[ \\t]*(?:${asked.map(([name]) => name).join("|")})[ \\t]*[:=].*\\n?`, "gim");
  return [...asked.map(([name, value]) => `${name}: ${value}`), chords.replace(own, "")].join("\n");
}

let chorus = 0; // of the chart that is heard, counted from 0

// The tempo that a ramp such as 120:180/4 or 120:180/4+2 has for the chorus; 0 without one.
function ramped() {
  const number = "(\\d+(?:\\.\\d+)?)";
  const asked = $("ramp").value.trim().match(`^${number}:${number}(?:/(\\d{1,3}))?(?:\\+${number})?$`);
  if (!asked || !$("chords").value.trim()) return 0;
  const [first, last, every, step] = [asked[1], asked[2], asked[3] || 1, asked[4] || 5].map(Number);
  const moved = Math.floor(chorus / Math.max(1, every)) * step;
  return last >= first ? Math.min(first + moved, last) : Math.max(first - moved, last);
}

// Clicks before the first bar, played by the page itself; how many seconds they last.
function countIn() {
  const bars = Math.min(4, Math.max(0, Math.floor(Number($("count-in").value)))), tempo = wishes().tempo;
  if (!bars || resume || state) return 0;
  if (!tempo) {
    say("The count-in wants a tempo", true);
    return 0;
  }
  const samples = stand.clicks(bars, tempo, $("chords").value), seconds = samples.length / 96000;
  playedBefore += samples.length / 2;
  player.port.postMessage(samples, [samples.buffer]);
  return seconds;
}

let counting = null; // the timer of a count-in
let charts = null; // a file, or a link that was pasted: what the tunes to choose from are in

// Becomes a chart in the box; of several tunes the one that is chosen, the first until then.
async function readCharts(source, number) {
  const key = $("api-key").value.trim();
  const headers = { "Content-Type": "application/octet-stream", ...(key ? { Authorization: `Bearer ${key}` } : {}) };
  const answer = await fetch(`v1/charts?tune=${number}`, { method: "POST", body: source, headers });
  const body = await answer.json();
  if (!answer.ok) return say(`The chart is not read: ${body.detail}`, true);
  if (source !== charts) {
    $("tune").replaceChildren(...body.tunes.map((title, at) => new Option(title || `tune ${at + 1}`, at + 1)));
    $("tune-row").hidden = body.tunes.length < 2;
  }
  charts = source;
  $("chords").value = body.chart;
  say([`${body.title || "A chart"}, ${body.bars} bars`, ...body.remarks.map((each) => `not played: ${each}`)].join("; "));
  change();
}

function tellUnread(error) {
  say(`The chart is not read: ${error.message || error}`, true);
}

async function start() {
  clicked = performance.now();
  $("play").disabled = true;
  say("Starting …");
  try {
    await prepareSound();
    if (!(await loadModels())) return;
    player.port.postMessage("reset");
    Object.assign(rtjazz, { state: "starting", blocks: 0, bytes: 0, peak: 0, firstSound: null });
    shown = [];
    if (!state && !resume) newTake();
    received = chorus = 0;
    playedBefore = rtjazz.played;
    counting = setTimeout(connect, Math.max(0, 1000 * (countIn() - LEAD)));
  } catch (error) {
    say(String(error.message || error), true);
  } finally {
    $("play").disabled = false;
  }
}

function connect() {
  counting = null;
  const key = $("api-key").value.trim();
  const address = new URL("v1/live", location.href);
  address.protocol = location.protocol === "https:" ? "wss:" : "ws:";
  socket = new WebSocket(address, key ? ["rtjazz", KEY_PROTOCOL + key] : ["rtjazz"]);
  socket.binaryType = "arraybuffer";
  let described = null, problem = "";
  const encoding = $("opus").checked && !$("opus-row").hidden ? "opus" : "f32";
  decoder = encoding === "opus" ? opusDecoder() : null;
  socket.onopen = () => {
    melodySent = null;
    const music = state ? { state: state.size } : resume ? { resume } : wishes();
    socket.send(JSON.stringify({ type: "start", encoding, state_every: STATE_EVERY[encoding], ...music }));
    for (let at = 0; state && at < state.size; at += PIECE) socket.send(state.slice(at, at + PIECE));
    resume = null;
    melodySent = melody;
  };
  socket.onmessage = ({ data }) => {
    if (typeof data !== "string") {
      if (described.type === "state") keep(data, described);
      else sound(data, described);
      return;
    }
    const message = JSON.parse(data);
    if (message.type === "block" || message.type === "state") described = message;
    else if (message.type === "started") began(message);
    else if (message.type === "updated") {
      rtjazz.updates += 1;
      const waiting = message.starts === null ? "" : "Playing; the new chart begins at the bar line";
      say(message.remarks.join("; ") || waiting || "Playing");
      showSheet(message);
    } else if (message.type === "drained") resume = message.resume;
    else if (message.type === "error") {
      rtjazz.errors += 1;
      problem = message.detail;
      say(problem, true);
    }
  };
  socket.onclose = ({ code, reason }) => {
    socket = null;
    rtjazz.state = "stopped";
    $("play").textContent = "Play";
    if (code !== 1000) say(problem || reason || "The connection is lost", true);
    else say("Stopped");
    if (code === 1000 || code === 1008) resume = state = null; // it is over, or was refused
    if ((resume || state) && ++tries <= TRIES) setTimeout(() => socket === null && start(), 3000);
  };
}

function keep(piece, { offset, bytes }) {
  if (offset === 0) pieces = [];
  pieces.push(piece);
  if (offset + piece.byteLength === bytes) state = new Blob(pieces);
  rtjazz.kept = state ? state.size : 0;
}

function began(message) {
  rtjazz.state = "playing";
  tries = 0;
  rtjazz.session = message.session;
  $("play").textContent = "Stop";
  showSheet(message);
  player.port.postMessage({ patience: message.problem ? message.buffer / 2 : 0 });
  const told = [message.problem, ...(message.remarks || [])].filter(Boolean).join("; ");
  say(message.problem ? `Playing; ${told}` : told || "Playing", Boolean(message.problem));
}

// Packets to sound, in order; the codec's first 6.5 ms stay in.
function opusDecoder() {
  const made = new AudioDecoder({
    output: (audio) => {
      const frames = audio.numberOfFrames, samples = new Float32Array(2 * frames), plane = new Float32Array(frames);
      for (const planeIndex of [0, 1]) {
        audio.copyTo(plane, { planeIndex, format: "f32-planar" });
        for (let i = 0; i < frames; i++) samples[2 * i + planeIndex] = plane[i];
      }
      audio.close();
      if (made === decoder) play(samples);
    },
    error: (error) => {
      say(String(error.message || error), true);
      if (made === decoder && socket) socket.close();
    },
  });
  made.configure({ codec: "opus", sampleRate: 48000, numberOfChannels: 2 });
  return made;
}

function decode(data, { packets, start }) {
  let at = 0;
  packets.forEach((size, index) => {
    const timestamp = Math.round(1e6 * start) + 20000 * index; // microseconds
    decoder.decode(new EncodedAudioChunk({ type: "key", timestamp, data: new Uint8Array(data, at, size) }));
    at += size;
  });
}

function play(samples) {
  for (let i = 0; i < samples.length; i += 7) rtjazz.peak = Math.max(rtjazz.peak, Math.abs(samples[i]));
  keepTake(samples);
  player.port.postMessage(samples, [samples.buffer]);
}

function sound(data, message) {
  rtjazz.blocks += 1;
  rtjazz.bytes += data.byteLength;
  shown.push({ from: received, message });
  received += message.samples;
  const { p95, under_runs: late } = message.stats;
  $("stats").textContent = `block ${(1000 * p95).toFixed(0)} ms (95%), ${late} late, ${rtjazz.gaps} gaps, ` +
    `${message.dropped} dropped`;
  if (decoder) decode(data, message);
  else play(new Float32Array(data));
}

function heard({ played, gaps, gapSeconds, inHand }) {
  Object.assign(rtjazz, { played, gaps, gapSeconds, inHand });
  const frame = played - playedBefore;
  if (rtjazz.firstSound === null && rtjazz.blocks > 0 && frame > 0) rtjazz.firstSound = performance.now() - clicked;
  while (shown.length > 1 && shown[1].from <= frame) shown.shift();
  if (!shown.length || rtjazz.state !== "playing") return;
  const { from, message } = shown[0];
  const seconds = Math.max(0, frame - from) / 48000;
  let chord = message.chord;
  for (const [offset, symbol] of message.chords) if (offset <= seconds) chord = symbol;
  const beat = message.beat - 1 + (seconds * message.tempo) / 60;
  rtjazz.chord = chord;
  rtjazz.bar = message.bar + Math.floor(beat / message.beats_per_bar);
  rtjazz.beat = Math.floor(beat % message.beats_per_bar) + 1;
  rtjazz.tempo = message.tempo;
  if (message.chorus !== null && message.chorus - 1 !== chorus) {
    chorus = message.chorus - 1;
    if (ramped()) change();
  }
  $("chord").textContent = chord;
  $("place").textContent = `bar ${rtjazz.bar} beat ${rtjazz.beat}`;
  stand.mark($("grid"), message.chart_bar + Math.floor(beat / message.beats_per_bar));
}

async function loadModels() {
  const key = $("api-key").value.trim();
  const answer = await fetch("v1/models", { headers: key ? { Authorization: `Bearer ${key}` } : {} });
  if (answer.status === 401) {
    $("key-row").hidden = false;
    say(key ? "The server does not know this API key" : "The server asks for an API key", true);
    return false;
  }
  const body = await answer.json();
  if (!answer.ok) {
    say(body.detail, true);
    return false;
  }
  $("opus-row").hidden = !window.AudioDecoder || !body.models[0].encodings.includes("opus");
  $("notes-row").hidden = !body.models[0].reads_notes;
  const select = $("adapter"), chosen = select.value;
  select.replaceChildren(new Option("none", ""), ...body.models[0].adapters.map((name) => new Option(name, name)));
  select.value = chosen;
  return true;
}

let timer = null;
let sent = ""; // what was last asked for
function change() {
  $("mix-value").textContent = `${100 - $("mix").value} : ${$("mix").value}`;
  clearTimeout(timer);
  timer = setTimeout(() => {
    if (socket === null || rtjazz.state !== "playing") return;
    const music = wishes();
    if (JSON.stringify(music) === sent) return;
    sent = JSON.stringify(music);
    melodySent = melody;
    const at = $("at-once").checked ? { at: "now" } : {};
    socket.send(JSON.stringify({ type: "update", ...music, ...at }));
  }, 250);
}

$("play").addEventListener("click", () => {
  if (counting !== null) {
    clearTimeout(counting);
    counting = null;
    rtjazz.state = "stopped";
    player.port.postMessage("reset");
    say("Stopped");
  } else if (socket !== null) {
    if (socket.readyState === WebSocket.OPEN) socket.send('{"type": "stop"}');
    else socket.close();
    player.port.postMessage("reset");
  } else start();
});
async function readMelody() {
  const file = $("melody").files[0];
  if (file && file.size > 36000) {
    $("melody").value = "";
    return say("The melody has more than 36 kB: give a MIDI file of one tune", true);
  }
  const bytes = file ? new Uint8Array(await file.arrayBuffer()) : null;
  melody = bytes ? btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join("")) : null;
  change();
}

$("melody").addEventListener("change", readMelody);
$("tap").addEventListener("click", tap);
$("download").addEventListener("click", () => stand.download(take));
$("players").addEventListener("change", change);
$("instruments").addEventListener("input", everybodyPlays);
$("chart-file").addEventListener("change", () => {
  const file = $("chart-file").files[0];
  if (file) readCharts(file, 1).catch(tellUnread);
});
$("tune").addEventListener("change", () => readCharts(charts, $("tune").value).catch(tellUnread));
$("chords").addEventListener("change", () => {
  const text = $("chords").value.trim();
  if (/^ireal(b|book):/.test(text)) readCharts(text, 1).catch(tellUnread);
});
$("controls").addEventListener("input", change);
$("controls").addEventListener("submit", (event) => event.preventDefault());
loadModels().then((ok) => ok && say("Stopped")).catch(() => say("The server does not answer", true));
