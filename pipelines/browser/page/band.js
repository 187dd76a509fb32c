// A worker that writes the notes: the package's own Python under Pyodide.
import { loadPyodide } from "./vendor/pyodide.mjs";

let python, band, blockBytes, port;

async function load() {
  python = await loadPyodide({ indexURL: new URL("./vendor/", import.meta.url).href });
  const answer = await fetch(new URL("./score.zip", import.meta.url), { cache: "no-cache" });
  if (!answer.ok) throw new Error(`score.zip is not there (${answer.status}).`);
  python.FS.writeFile("/score.zip", new Uint8Array(await answer.arrayBuffer()));
  python.runPython("import sys; sys.path.insert(0, '/score.zip'); import page_band");
  blockBytes = python.runPython("page_band.block_bytes");
}

// The last line of a Python error, without its class: that says what is wrong and what to do.
function plain(error) {
  const lines = String(error.message ?? error).trim().split("\n");
  return lines.at(-1).replace(/^[\w.]+: /, "");
}

const orders = {
  load: async () => {
    await load();
    return true;
  },
  begin: ({ scoreDim }) => {
    band?.destroy();
    band = python.runPython(`page_band.PageBand(${Number(scoreDim)})`);
    return true;
  },
  wish: ({ wishes }) => band.wish(wishes),
  block: ({ frames }) => {
    const pair = blockBytes(band, frames), data = pair.get(0), buffer = data.getBuffer("u8");
    try {
      return { told: buffer.data.slice().buffer, info: pair.get(1) };
    } finally {
      buffer.release();
      data.destroy();
      pair.destroy();
    }
  },
};

onmessage = ({ ports }) => {
  port = ports[0];
  port.onmessage = async ({ data: { call, type, ...rest } }) => {
    try {
      const value = await orders[type](rest);
      port.postMessage({ call, value }, value?.told ? [value.told] : []);
    } catch (error) {
      port.postMessage({ call, error: plain(error) });
    }
  };
};
