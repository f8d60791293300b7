// The server: its token, requests, streams of events, and the word on the page while it does not answer.

const TOKEN = "mlx-lora.token";

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** Take the token out of the address, so that it stays neither there nor in the history. */
export function takeToken() {
  const given = new URLSearchParams(location.hash.replace(/^#\/?/, "")).get("token");
  if (given === null) return;
  setToken(given);
  history.replaceState(null, "", `${location.pathname}#/runs`);
}

export const setToken = (token) => sessionStorage.setItem(TOKEN, token.trim());

function headers(more) {
  const token = sessionStorage.getItem(TOKEN);
  return token ? { ...more, Authorization: `Bearer ${token}` } : more;
}

/** Ask for JSON: GET, or POST with a body. A server that does not answer is shown as such, and raises TypeError. */
export async function ask(path, { body, post = body !== undefined, signal } = {}) {
  const answer = await reach(path, {
    method: post ? "POST" : "GET",
    headers: headers(body === undefined ? {} : { "Content-Type": "application/json" }),
    body: body === undefined ? undefined : JSON.stringify(body),
    signal,
  });
  return answer.json();
}

async function reach(path, options) {
  let answer;
  try {
    answer = await fetch(path, { cache: "no-store", ...options });
  } catch (error) {
    if (error.name !== "AbortError") away(true);
    throw error;
  }
  away(false);
  if (answer.ok) return answer;
  const content = await answer.json().catch(() => ({}));
  const said = content.error?.message ?? content.error ?? `the server answered with status ${answer.status}`;
  throw new Refused(answer.status, said);
}

export const query = (values) => new URLSearchParams(Object.entries(values).filter(([, value]) => value !== null && value !== undefined)).toString();

function away(is) {
  const place = document.getElementById("connection");
  if (place.hidden !== is) return;
  place.hidden = !is;
  place.textContent = is ? "The server does not answer. What you see is how it was; this page tries again by itself." : "";
  document.body.classList.toggle("away", is);
}

/** Yield {event, data, id} of a stream of server-sent events. */
async function* events(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "", event = { event: "message", data: [], id: null };
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    text += value;
    const lines = text.split(/\r\n|\n|\r(?!$)/);
    text = lines.pop();
    for (const line of lines) {
      if (line === "") {
        if (event.data.length) yield { ...event, data: event.data.join("\n") };
        event = { event: "message", data: [], id: null };
        continue;
      }
      const [, name, content] = line.match(/^([^:]*):? ?(.*)$/);
      if (name === "data") event.data.push(content);
      else if (name === "event" || name === "id") event[name] = content;
    }
  }
}

/** Follow a stream until its `end`, from the last event seen after each break. */
export async function follow(path, signal, seen) {
  let last = null, wait = 500;
  while (!signal.aborted) {
    try {
      const answer = await reach(path, { headers: headers(last ? { "Last-Event-ID": last } : {}), signal });
      for await (const event of events(answer)) {
        wait = 500;
        last = event.id ?? last;
        if (event.event === "end") return;
        seen(JSON.parse(event.data));
      }
    } catch (error) {
      if (error instanceof Refused) return;
    }
    await pause(wait, signal);
    wait = Math.min(wait * 2, 8000);
  }
}

/** Yield the pieces of an answer as they come. */
export async function* chat(body, signal) {
  const answer = await reach("/v1/chat/completions", {
    method: "POST",
    headers: headers({ "Content-Type": "application/json" }),
    body: JSON.stringify({ ...body, stream: true }),
    signal,
  });
  for await (const event of events(answer)) {
    if (event.data === "[DONE]") return;
    const content = JSON.parse(event.data);
    if (content.error) throw new Refused(500, content.error.message ?? String(content.error));
    const piece = content.choices?.[0]?.delta?.content;
    if (piece) yield piece;
  }
}

/** Wait, or until the signal. */
export function pause(milliseconds, signal) {
  return new Promise((resolve) => {
    if (signal?.aborted) return resolve();
    const timer = setTimeout(resolve, milliseconds);
    signal?.addEventListener("abort", () => { clearTimeout(timer); resolve(); }, { once: true });
  });
}
