"use strict";

// A card for each clip of clips/list.js: play, seek, the bar that sounds. No request but for the sound itself.
const SVG = "http://www.w3.org/2000/svg";
const status = document.getElementById("status");
let sounding = null; // the card that plays

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

function clock(seconds) {
  return `${Math.floor(seconds / 60)}:${String(Math.floor(seconds % 60)).padStart(2, "0")}`;
}

function waveform(peaks) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", `0 0 ${peaks.length} 100`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("aria-hidden", "true");
  const loudest = Math.max(0.01, ...peaks);
  peaks.forEach((peak, at) => {
    const bar = document.createElementNS(SVG, "rect"), height = Math.max(2, (96 * peak) / loudest);
    for (const [name, value] of Object.entries({ x: at + 0.15, y: 50 - height / 2, width: 0.7, height }))
      bar.setAttribute(name, value);
    svg.append(bar);
  });
  return svg;
}

class Card {
  constructor(clip) {
    this.clip = clip;
    this.sound = new Audio();
    this.sound.preload = "none";
    this.sound.src = `clips/${clip.name}.ogg`;
    this.button = element("button", { type: "button", textContent: "Play" });
    this.button.setAttribute("aria-label", `Play: ${clip.title}`);
    this.seek = element("input", { type: "range", min: 0, max: clip.seconds, step: 0.01, value: 0 });
    this.seek.setAttribute("aria-label", `Place in ${clip.title}, seconds`);
    this.wave = waveform(clip.peaks);
    this.time = element("span", { className: "time" });
    this.cells = clip.bars.map(({ chords }) => element("li", { textContent: chords.join("  ") }));
    this.chart = element("ol", { className: "chart" }, ...this.cells);
    this.chart.setAttribute("aria-label", `Chart, ${clip.tempo} beats a minute at first`);
    this.root = element(
      "article", { id: clip.name },
      element("h2", { textContent: clip.title }),
      element("p", { textContent: clip.words }),
      element("div", { className: "player" }, this.button,
        element("div", { className: "wave" }, this.wave, this.seek), this.time),
      this.chart,
      element("details", {}, element("summary", { textContent: "Command" }),
        element("pre", { textContent: clip.command })),
    );
    this.button.addEventListener("click", () => (this.sound.paused ? this.play() : this.sound.pause()));
    this.seek.addEventListener("input", () => this.go(Number(this.seek.value)));
    this.seek.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 }[event.key];
      if (!step) return;
      event.preventDefault();
      this.go(Math.min(Math.max(this.place + step, 0), clip.seconds));
    });
    for (const name of ["play", "pause", "ended"]) this.sound.addEventListener(name, () => this.shown());
    this.sound.addEventListener("seeked", () => this.shown());
    this.sound.addEventListener("error", () => {
      status.textContent = `${clip.title} cannot be played: the file clips/${clip.name}.ogg is missing, or this ` +
        "browser does not know Ogg Opus.";
    });
    this.shown();
  }

  get place() {
    return this.pending ?? this.sound.currentTime;
  }

  // Before the file is read there is no place to go to: it is kept until then.
  go(seconds) {
    this.pending = seconds;
    if (this.sound.readyState > 0) this.arrive();
    else this.sound.addEventListener("loadedmetadata", () => this.arrive(), { once: true });
    this.shown();
  }

  arrive() {
    if (this.pending === undefined) return;
    this.sound.currentTime = this.pending;
    this.pending = undefined;
  }

  play() {
    const before = sounding;
    if (before && before !== this && !before.sound.paused) {
      // Clips of one chart are compared at one place.
      if (before.clip.group && before.clip.group === this.clip.group) this.go(before.place);
      before.sound.pause();
    }
    if (this.sound.ended || this.place >= this.clip.seconds - 0.05) this.go(0);
    sounding = this;
    status.textContent = "";
    this.sound.play().catch((error) => {
      if (error.name !== "AbortError" && !status.textContent) status.textContent = `${this.clip.title}: ${error.message}`;
    });
    const follow = () => {
      this.shown();
      if (!this.sound.paused) requestAnimationFrame(follow);
    };
    requestAnimationFrame(follow);
  }

  shown() {
    const { clip, place } = this;
    const playing = !this.sound.paused && !this.sound.ended;
    this.button.textContent = playing ? "Stop" : "Play";
    this.button.setAttribute("aria-label", `${playing ? "Stop" : "Play"}: ${clip.title}`);
    this.seek.value = place;
    this.seek.setAttribute("aria-valuetext", `${place.toFixed(0)} of ${clip.seconds.toFixed(0)} seconds`);
    this.time.textContent = `${clock(place)} / ${clock(clip.seconds)}`;
    const passed = Math.round((place / clip.seconds) * clip.peaks.length);
    if (passed !== this.passed) {
      this.passed = passed;
      Array.from(this.wave.children).forEach((bar, at) => bar.classList.toggle("past", at < passed));
    }
    const bar = place > 0 || playing ? clip.bars.findLastIndex(({ start }) => start <= place + 0.01) : -1;
    if (bar !== this.bar) {
      this.bar = bar;
      this.cells.forEach((cell, at) => {
        cell.classList.toggle("now", at === bar);
        if (at === bar) cell.setAttribute("aria-current", "true");
        else cell.removeAttribute("aria-current");
      });
    }
  }
}

const cards = (window.CLIPS || []).map((clip) => new Card(clip));
document.getElementById("clips").append(...cards.map((card) => card.root));
if (!cards.length) status.textContent = "There are no clips here yet: python docs/listen/make_clips.py makes them.";
window.listen = { cards }; // for a console, or a test
