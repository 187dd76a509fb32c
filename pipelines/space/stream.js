"use strict";

// Plays a take without gaps, and draws its chart and spectrum at the moment that is heard.
const rtjazzStream = (window.rtjazzStream = (() => {
  const RATE = 48000, BACK = 8, AHEAD = 4, CHART = 60, LOW = 40, HIGH = 16000; // seconds, pixels, Hz
  // What can be read from outside: a test, or the console.
  const seen = { blocks: 0, gaps: 0, played: 0, inHand: 0, firstSound: null, chord: "", bar: 0, closed: "" };
  const LEAD = 0.8; // seconds before the last click is over in which the music is asked for
  let context = null, ready = null, worklet, analyser, bins, socket = null, clicked = 0, counting = null;
  let before = 0; // frames that were played before this take
  let reported = 0; // when `seen.played` was told, by performance.now
  let chords = [], bars = []; // of the take: [seconds, symbol], [seconds, bar of the chart]
  let grid = ""; // the chart that is shown
  let drawn = 0; // seconds of the take up to which the spectrum is drawn

  // In the click: a page may begin to sound only there.
  function open() {
    clicked = performance.now();
    return prepare();
  }

  async function prepare() {
    context ??= new AudioContext({ sampleRate: RATE });
    ready ??= build();
    await ready;
    await context.resume();
  }

  async function build() {
    await context.audioWorklet.addModule("/player/worklet.js");
    worklet = new AudioWorkletNode(context, "block-player", { numberOfInputs: 0, outputChannelCount: [2] });
    analyser = new AnalyserNode(context, { fftSize: 4096, smoothingTimeConstant: 0 });
    bins = new Float32Array(analyser.frequencyBinCount);
    worklet.connect(analyser).connect(context.destination);
    worklet.port.onmessage = ({ data }) => heard(data);
    requestAnimationFrame(draw);
  }

  function heard({ played, gaps, inHand }) {
    Object.assign(seen, { played, gaps, inHand });
    reported = performance.now();
    if (seen.firstSound === null && seen.blocks > 0 && played > before) seen.firstSound = reported - clicked;
    // here rather than where it is drawn: a page that is not looked at draws nothing
    const seconds = (played - before) / RATE;
    seen.chord = chords.filter(([at]) => at <= seconds).at(-1)?.[1] ?? "";
    if (seen.blocks > 0 && seconds >= 0) soundingBar(seconds);
  }

  // `count`: bars of clicks before the music, which want a tempo.
  async function play(name, count, tempo, chart) {
    if (!name) return;
    await prepare();
    stop();
    Object.assign(seen, { blocks: 0, firstSound: null, closed: "" });
    const clicks = count && tempo ? stand.clicks(Math.min(4, Math.floor(count)), tempo, chart) : new Float32Array(0);
    const seconds = clicks.length / (2 * RATE);
    before = seen.played + clicks.length / 2;
    chords = [];
    bars = [];
    grid = "";
    drawn = 0;
    if (clicks.length) worklet.port.postMessage(clicks, [clicks.buffer]);
    counting = setTimeout(connect, Math.max(0, 1000 * (seconds - LEAD)), name);
  }

  function connect(name) {
    const address = new URL(`/takes/${name}`, location.href);
    address.protocol = location.protocol === "https:" ? "wss:" : "ws:";
    socket = new WebSocket(address);
    socket.binaryType = "arraybuffer";
    socket.onmessage = ({ data }) => (typeof data === "string" ? follow(JSON.parse(data)) : sound(data));
    socket.onclose = ({ reason }) => (seen.closed = reason || "closed");
  }

  function stop() {
    clearTimeout(counting);
    if (socket !== null) socket.close();
    socket = null;
    if (worklet !== undefined) worklet.port.postMessage("reset");
  }

  function follow({ start, chords: coming, bars: lines, grid: chart }) {
    // what comes from here on takes the place of what was expected
    chords = [...chords.filter(([at]) => at < start && at > start - 2 * BACK), ...coming];
    bars = [...bars.filter(([at]) => at < start && at > start - 2 * BACK), ...lines];
    const list = document.getElementById("rtjazz-grid");
    if (list !== null && JSON.stringify(chart) !== grid) {
      grid = JSON.stringify(chart);
      stand.draw(list, chart);
    }
  }

  function soundingBar(seconds) {
    const bar = bars.findLast(([at]) => at <= seconds)?.[1], list = document.getElementById("rtjazz-grid");
    if (bar === undefined || list === null || (bar === seen.bar && list.querySelector(".now"))) return;
    seen.bar = bar;
    stand.mark(list, bar);
  }

  function sound(data) {
    const samples = Float32Array.from(new Int16Array(data), (value) => value / 32768);
    seen.blocks += 1;
    worklet.port.postMessage(samples, [samples.buffer]);
  }

  function draw() {
    requestAnimationFrame(draw);
    const canvas = document.getElementById("rtjazz-picture");
    if (canvas === null) return;
    const picture = canvas.getContext("2d"), { width, height } = canvas;
    const scale = width / (BACK + AHEAD), now = Math.round(BACK * scale); // pixels a second; where it is heard
    const sounding = seen.blocks > 0 && seen.inHand > 0;
    const late = sounding ? Math.min(0.2, (performance.now() - reported) / 1000) : 0;
    const seconds = (seen.played - before) / RATE + late;
    const step = Math.floor((seconds - drawn) * scale);
    if (step > 0 && step < now) {
      picture.drawImage(canvas, step, CHART, now - step, height - CHART, 0, CHART, now - step, height - CHART);
      spectrum(picture, now - step, step, height);
    }
    if (step !== 0) drawn = step > 0 && step < now ? drawn + step / scale : seconds;
    picture.fillStyle = "#222";
    picture.fillRect(0, 0, width, CHART);
    picture.fillRect(now, CHART, width - now, height - CHART);
    chart(picture, seconds, scale, now, width, height);
  }

  function spectrum(picture, x, step, height) {
    analyser.getFloatFrequencyData(bins);
    for (let y = CHART; y < height; y += 2) {
      const hz = HIGH * (LOW / HIGH) ** ((y - CHART) / (height - CHART));
      const level = (bins[Math.round((hz * analyser.fftSize) / RATE)] + 100) / 80; // of -100 to -20 dB
      const heat = Math.max(0, Math.min(1, Number.isFinite(level) ? level : 0));
      picture.fillStyle = `hsl(${280 - 230 * heat} 90% ${5 + 60 * heat}%)`;
      picture.fillRect(x, y, step, 2);
    }
  }

  function chart(picture, seconds, scale, now, width, height) {
    const place = (at) => now + (at - seconds) * scale;
    picture.strokeStyle = "#888";
    picture.beginPath();
    for (const [at] of bars) {
      picture.moveTo(place(at), 0);
      picture.lineTo(place(at), CHART);
    }
    picture.stroke();
    picture.font = "bold 20px sans-serif";
    const runs = chords.filter(([, symbol], index) => index === 0 || chords[index - 1][1] !== symbol);
    runs.forEach(([at, symbol], index) => {
      const end = index + 1 < runs.length ? runs[index + 1][0] : Infinity;
      const sounds = at <= seconds && seconds < end;
      const x = Math.max(4, place(at) + 6); // one that began out of sight keeps its name
      if (place(end) - x < picture.measureText(symbol).width) return; // no room
      picture.fillStyle = sounds ? "#ffd54a" : "#eee";
      picture.fillText(symbol, x, CHART / 2 + 7);
    });
    picture.strokeStyle = "#ffd54a";
    picture.beginPath();
    picture.moveTo(now, 0);
    picture.lineTo(now, height);
    picture.stroke();
  }

  // The tempo of the last taps; as it was, until there are three.
  function tap(tempo) {
    return stand.tap() ?? tempo;
  }

  return { open, play, stop, seen, tap };
})());
