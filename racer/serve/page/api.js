// The server's stream of an answer, as events.

/** What a user can be told; `status` is the HTTP status, 0 where there was none. */
export class ServerError extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

const GONE = "The server cannot be reached. Is it still running?";
const CUT_OFF = "The server went away before the answer was complete.";

/** Relative, so that the page also works under a path of another server. */
const address = (path) => new URL(path, document.baseURI);

const headers = (key) => (key ? { Authorization: `Bearer ${key}` } : {});

/** The name of the server's model. */
export async function modelName(key) {
  const response = await reached(fetch(address("v1/models"), { headers: headers(key) }));
  if (!response.ok) throw await refusal(response);
  return (await response.json()).data[0].id;
}

/**
 * Ask for an answer, and give its events as they come:
 * `{text, drafted}` for each piece, at the end one with `finish` and `figures`.
 * Aborting `signal` ends it with an AbortError; everything else that goes wrong is a ServerError.
 */
export async function* ask(body, key, signal) {
  const response = await reached(
    fetch(address("v1/chat/completions"), {
      method: "POST",
      headers: { "Content-Type": "application/json", ...headers(key) },
      body: JSON.stringify({ ...body, stream: true }),
      signal,
    }),
  );
  if (!response.ok) throw await refusal(response);
  let finish = null;
  let figures = null;
  for await (const data of events(response.body)) {
    if (data === "[DONE]") {
      yield { finish, figures };
      return;
    }
    const chunk = JSON.parse(data);
    if (chunk.error) throw new ServerError(chunk.error.message);
    figures = chunk.racer ?? figures;
    for (const choice of chunk.choices) {
      finish = choice.finish_reason ?? finish;
      if (choice.delta.content) yield { text: choice.delta.content, drafted: choice.racer?.drafted ?? false };
    }
  }
  throw new ServerError(CUT_OFF);
}

/** The data of server-sent events. */
async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reached(reader.read(), CUT_OFF);
      if (done) return;
      const lines = (rest + value).split(/\r?\n/);
      rest = lines.pop();
      for (const line of lines) {
        if (line.startsWith("data:")) yield line.slice(5).trim();
      }
    }
  } finally {
    reader.cancel().catch(() => {}); // it has failed already, or nobody wants the rest
  }
}

async function reached(promise, message = GONE) {
  try {
    return await promise;
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError(message);
  }
}

async function refusal(response) {
  let message = `The server answered with status ${response.status}.`;
  try {
    message = (await response.json()).error.message;
  } catch {
    // no JSON, or of another shape: the status has to do
  }
  return new ServerError(message, response.status);
}
