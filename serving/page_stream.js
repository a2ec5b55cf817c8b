// A reply of POST /v1/chat/completions as it comes, and what can go wrong with it.

class ReplyError extends Error {
  constructor(message, status = null) {
    super(message);
    this.status = status;
  }
}

// A line ends with CR, LF or both; both may come in two parts of the stream, and so may the bytes of one character.
async function* linesOf(body) {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  let rest = "";
  try {
    for (let ended = false; !ended; ) {
      const { value, done } = await reader.read();
      ended = done;
      rest += done ? decoder.decode() : decoder.decode(value, { stream: true });
      const lines = rest.split(done ? /\r\n|\r|\n/ : /\r\n|\r(?!$)|\n/);
      if (!done) rest = lines.pop();
      yield* lines;
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

// The data of each server-sent event; comments and other fields carry nothing here.
async function* eventsOf(body) {
  let data = [];
  for await (const line of linesOf(body)) {
    if (line.startsWith("data:")) data.push(line.slice(line[5] === " " ? 6 : 5));
    else if (line === "" && data.length) {
      yield data.join("\n");
      data = [];
    }
  }
  if (data.join("\n") === "[DONE]") yield "[DONE]"; // the stream's last line break may be missing
}

function errorText(error) {
  const text = typeof error === "string" ? error : error?.message;
  return typeof text === "string" && text ? text : JSON.stringify(error) || "no reason is told";
}

function parsed(data) {
  let chunk;
  try {
    chunk = JSON.parse(data);
  } catch {
    chunk = null;
  }
  if (chunk === null || typeof chunk !== "object") {
    throw new ReplyError(`The server sent what is no part of an answer: ${data.slice(0, 200)}`);
  }
  if (chunk.error) throw new ReplyError(`The server ended the answer: ${errorText(chunk.error)}`);
  return chunk;
}

async function refusal(response) {
  const body = await response.text().catch(() => "");
  let reason;
  try {
    reason = errorText(JSON.parse(body).error);
  } catch {
    reason = body.trim().slice(0, 500) || "no reason is told";
  }
  const wait = response.headers.get("Retry-After");
  const later = /^\d+$/.test(wait || "") ? ` (try again in ${wait} s)` : "";
  return new ReplyError(`The server refuses (status ${response.status}): ${reason}${later}`, response.status);
}

// A reply of the server with a good status.
async function fetched(path, key, options = {}) {
  const headers = { ...options.headers };
  if (key) headers.Authorization = `Bearer ${key}`;
  let response;
  try {
    response = await fetch(path, { ...options, headers, cache: "no-store" });
  } catch (error) {
    if (options.signal?.aborted) throw error;
    throw new ReplyError(`The server cannot be reached: ${error.message}`);
  }
  if (!response.ok) throw await refusal(response);
  return response;
}

// The chunks of the answer to one request.
async function* chunksOf(request, key, signal) {
  const response = await fetched("v1/chat/completions", key, {
    method: "POST",
    headers: { "Content-Type": "application/json", Accept: "text/event-stream" },
    body: JSON.stringify({ ...request, stream: true, stream_options: { include_usage: true } }),
    signal,
  });
  const type = response.headers.get("Content-Type") || "no type";
  if (!type.startsWith("text/event-stream")) throw new ReplyError(`The server did not answer with a stream (${type}).`);
  try {
    for await (const data of eventsOf(response.body)) {
      if (data === "[DONE]") return;
      yield parsed(data);
    }
  } catch (error) {
    if (signal.aborted || error instanceof ReplyError) throw error;
    throw new ReplyError(`The connection broke before the answer's end: ${error.message}`);
  }
  throw new ReplyError("The connection was closed before the answer's end (no [DONE] came).");
}
