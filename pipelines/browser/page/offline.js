// A service worker: what was fetched of the page is kept, and is there without a connection. The model is not its
// business (weights.js), and with a connection the page is always the server's.
const CACHE = "rtjazz-page-1";
const FIRST = ["./", "page.js", "page.css", "stand.js", "stand.css", "output.js", "worklet.js"]; // before this worker was there

self.addEventListener("install", (event) => {
  self.skipWaiting();
  event.waitUntil(caches.open(CACHE).then((cache) => cache.addAll(FIRST)));
});
self.addEventListener("activate", (event) => event.waitUntil(self.clients.claim()));

async function answered(request) {
  const cache = await caches.open(CACHE);
  try {
    const answer = await fetch(request);
    if (answer.status === 200) await cache.put(request, answer.clone()).catch(() => {}); // no room: it plays all the same
    return answer;
  } catch (error) {
    const kept = await cache.match(request, { ignoreVary: true });
    if (kept) return kept;
    throw error;
  }
}

self.addEventListener("fetch", (event) => {
  const { method, url } = event.request, { origin, pathname } = new URL(url), { scope } = self.registration;
  if (method !== "GET" || origin !== self.location.origin) return;
  if (pathname.startsWith(new URL("model/", scope).pathname)) return;
  event.respondWith(answered(event.request));
});
