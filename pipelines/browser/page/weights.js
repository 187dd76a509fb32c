// The model's files: fetched once, kept in the browser's cache, and held to the size and SHA-256 that model.json says.
const CACHE = "rtjazz-model-1";

export class NotToBeHad extends Error {}

async function isWhole(data, { bytes, sha256 }) {
  if (data.byteLength !== bytes) return false;
  if (!globalThis.crypto?.subtle) return true; // a page without https: its length alone tells
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", data));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("") === sha256;
}

async function fetched(url, progress) {
  let answer;
  try {
    answer = await fetch(url, { cache: "no-cache" });
  } catch {
    throw new NotToBeHad(navigator.onLine === false
      ? "This device is offline, and the model has not been kept here yet: open the page once with a connection."
      : `${url} cannot be reached.`);
  }
  if (!answer.ok) throw new NotToBeHad(`${url} is not there (${answer.status}).`);
  const parts = [], reader = answer.body.getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    parts.push(value);
    progress(value.byteLength);
  }
  return await new Blob(parts).arrayBuffer();
}

async function openCache() {
  try {
    return await caches.open(CACHE);
  } catch {
    return null; // a page without https, or a browser that keeps nothing: it is fetched each time
  }
}

// model.json, then its files by name; `progress(done, all)` in bytes. `mended` names files that were kept and broken.
export async function loadModel(base, progress) {
  const cache = await openCache(), url = (name) => new URL(name, base).href;
  let settings, answer = null;
  try {
    answer = await fetch(url("model.json"), { cache: "no-cache" });
  } catch {
    answer = cache && (await cache.match(url("model.json")));
    if (!answer) throw new NotToBeHad("This device is offline, and the model has not been kept here yet: open the page " +
      "once with a connection.");
  }
  if (!answer.ok) throw new NotToBeHad(`${url("model.json")} is not there (${answer.status}).`);
  if (cache) await cache.put(url("model.json"), answer.clone()).catch(() => {});
  settings = await answer.json();
  const all = Object.values(settings.files).reduce((sum, { bytes }) => sum + bytes, 0);
  const files = {}, mended = [];
  let done = 0, fetchedBytes = 0;
  for (const [name, want] of Object.entries(settings.files)) {
    const kept = cache && (await cache.match(url(name)));
    let data = kept && (await kept.arrayBuffer());
    if (data && !(await isWhole(data, want))) {
      await cache.delete(url(name));
      mended.push(name);
      data = null;
    }
    if (!data) {
      let here = 0;
      data = await fetched(url(name), (bytes) => progress(done + (here += bytes), all));
      if (!(await isWhole(data, want)))
        throw new NotToBeHad(`${name} came otherwise than model.json says: the page is being renewed, or was not copied whole.`);
      fetchedBytes += data.byteLength;
      if (cache) await cache.put(url(name), new Response(data.slice(0))).catch(() => {});
    }
    done += want.bytes;
    progress(done, all);
    files[name] = data;
  }
  return { settings, files, mended, fetchedBytes };
}
