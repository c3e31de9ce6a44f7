// Requests to the server. It answers with JSON, or with lines of JSON that report progress and end
// with the result.

const BUSY = 503;
const RETRY_MS = 1500;

export async function getJson(url) {
  return outcome(await send(url, {}), () => {});
}

// Returns the content of the last line; calls onProgress(done, of) for those before. While the server
// is busy, calls onBusy() and tries again.
export async function post(url, { body, signal, onProgress = () => {}, onBusy = () => {} }) {
  for (;;) {
    const response = await send(url, { method: "POST", body, signal });
    if (response.status !== BUSY) return outcome(response, onProgress);
    onBusy();
    await pause(RETRY_MS, signal);
  }
}

export async function getBlob(url, signal) {
  const response = await send(url, { signal });
  if (!response.ok) return outcome(response, () => {});
  return response.blob();
}

export function forget(clip) {
  send(`/api/clips/${clip.id}`, { method: "DELETE", keepalive: true }).catch(() => {});
}

async function send(url, options) {
  try {
    return await fetch(url, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server does not respond. Is “avhubert-ext serve” still running?");
  }
}

async function outcome(response, onProgress) {
  let last = {};
  for await (const line of linesOf(response)) {
    last = JSON.parse(line);
    if ("done" in last) onProgress(last.done, last.of);
  }
  if ("error" in last) throw new Error(last.error);
  if ("done" in last) throw new Error("The server stopped before it was finished.");
  return last;
}

async function* linesOf(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) break;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    yield* lines.filter((line) => line);
  }
  if (rest) yield rest;
}

function pause(ms, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, ms);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(signal.reason);
    }, { once: true });
  });
}
