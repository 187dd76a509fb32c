// A worker that makes the sound, block by block, for as many blocks as it is allowed.
import * as ort from "./vendor/ort.wasm.min.mjs";
import { Noise } from "./noise.js";
import { GRAPHS, Stream } from "./stream.js";
import { loadModel, NotToBeHad } from "./weights.js";

ort.env.logLevel = "error";
ort.env.wasm.numThreads = 1; // more gain nothing, and would ask for headers that a static host may not send
ort.env.wasm.wasmPaths = new URL("./vendor/", import.meta.url).href;

let settings, sessions, styles, band; // band: the port of the worker that writes the notes
let stream = null, noise = null, style = null, allowed = 0, running = false, seed = null, take = 0;
let waiting = new Map(), calls = 0, ahead = null;

function ask(message) {
  return new Promise((resolve, reject) => {
    waiting.set(++calls, { resolve, reject });
    band.postMessage({ ...message, call: calls });
  });
}

async function load() {
  const began = performance.now();
  const notes = ask({ type: "load" }); // beside the model: it takes as long
  notes.catch(() => {}); // it is thrown where it is waited for
  const { settings: told, files, mended, fetchedBytes } = await loadModel(
    new URL("./model/", import.meta.url).href, (done, all) => postMessage({ type: "progress", done, all }));
  settings = told;
  if (mended.length) postMessage({ type: "mended", files: mended });
  const fetchedAt = performance.now();
  const made = {};
  for (const name of GRAPHS) {
    const options = { executionProviders: ["wasm"], logSeverityLevel: 3 }; // errors alone: its remarks are no one's to read
    made[name] = await ort.InferenceSession.create(new Uint8Array(files[`${name}.onnx`]), options);
    delete files[`${name}.onnx`];
  }
  styles = new Float32Array(files["styles.bin"]);
  await notes;
  sessions = made;
  const seconds = { fetch: (fetchedAt - began) / 1000, load: (performance.now() - fetchedAt) / 1000 };
  postMessage({ type: "ready", settings, seconds, fetchedBytes });
}

async function wish({ wishes }) {
  const sheet = JSON.parse(await ask({ type: "wish", wishes: JSON.stringify(wishes) }));
  const row = Math.max(0, settings.genres.indexOf(sheet.genre));
  style = styles.slice(row * settings.style_dim, (row + 1) * settings.style_dim);
  if (wishes.seed !== seed) {
    seed = wishes.seed ?? 0;
    noise = new Noise(seed);
  }
  postMessage({ type: "sheet", sheet });
}

async function play(mine) {
  if (running) return;
  running = true;
  const frames = settings.block_frames;
  try {
    while (allowed > 0 && mine === take && stream) {
      const began = performance.now();
      const { told, info } = await (ahead ?? ask({ type: "block", frames }));
      if (mine !== take) break; // the notes that follow are another take's
      ahead = ask({ type: "block", frames }); // written while this one sounds
      ahead.catch(() => {}); // it is thrown where it is waited for
      const random = noise.block(settings.channels, frames, settings.init_noise_sigma);
      allowed -= 1;
      const { left, right, latents } = await stream.block(random, style, new Float32Array(told));
      if (mine !== take) break;
      const message = { type: "block", left, right, latents, info: JSON.parse(info), seconds: (performance.now() - began) / 1000 };
      postMessage(message, [left.buffer, right.buffer, latents.buffer]);
    }
  } catch (error) {
    tell(error);
  } finally {
    running = false;
    if (mine !== take && allowed > 0 && stream) play(take);
  }
}

function tell(error) {
  postMessage({ type: "error", text: String(error?.message ?? error), fatal: error instanceof NotToBeHad || !sessions });
}

let turn = Promise.resolve(); // wishes are answered in order, and never while a begin is under way
const orders = {
  load: () => load(),
  begin: async ({ wishes }) => {
    take += 1;
    allowed = 0;
    seed = ahead = null;
    await ask({ type: "begin", scoreDim: settings.score_dim });
    await wish({ wishes });
    stream = new Stream(ort, sessions, settings);
    postMessage({ type: "begun" });
  },
  wish: (message) => wish(message),
  allow: ({ blocks }) => {
    allowed += blocks;
    if (stream) play(take);
  },
  stop: () => {
    take += 1;
    allowed = 0;
    stream = null;
  },
};

onmessage = ({ data, ports }) => {
  if (data.type === "band") {
    band = ports[0];
    band.onmessage = ({ data: { call, error, ...answer } }) => {
      const { resolve, reject } = waiting.get(call);
      waiting.delete(call);
      if (error) reject(new Error(error));
      else resolve(answer.value ?? answer);
    };
    return;
  }
  turn = turn.then(() => orders[data.type](data)).catch(tell);
};
