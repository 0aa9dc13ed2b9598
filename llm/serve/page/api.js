// Requests to the server. Paths are relative, so that a proxy may serve the page at any address.

let key = sessionStorage.getItem("api-key");

export class ApiError extends Error {
  constructor(message, status = 0, code = null) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

/** Send this key from now on, until the tab is closed. */
export function setKey(value) {
  key = value;
  sessionStorage.setItem("api-key", value);
}

async function request(path, body, signal) {
  const headers = {};
  if (key) headers.Authorization = `Bearer ${key}`;
  if (body) headers["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(path, {
      method: body ? "POST" : "GET",
      headers,
      body: body && JSON.stringify(body),
      signal,
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The server cannot be reached. Is it still running?");
  }
  if (!response.ok) {
    const { error } = await response.json().catch(() => ({}));
    throw new ApiError(error?.message ?? `The server answered ${response.status}.`, response.status, error?.code);
  }
  return response;
}

/** The answer to a request, which is a POST if there is a body. */
export async function json(path, body) {
  return (await request(path, body)).json();
}

/** The chunks of a streamed answer, as they come. */
export async function* stream(path, body, signal) {
  const response = await request(path, { ...body, stream: true }, signal);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) throw new ApiError("The connection ended before the answer did.");
      const events = (rest + value).split("\n\n");
      rest = events.pop();
      for (const event of events) {
        const data = event.replace(/^data: /, "");
        if (data === "[DONE]") return;
        const chunk = JSON.parse(data);
        if (chunk.error) throw new ApiError(chunk.error.message);
        yield chunk;
      }
    }
  } catch (error) {
    if (error instanceof TypeError) throw new ApiError("The connection to the server was lost.");
    throw error;
  } finally {
    reader.cancel().catch(() => {});
  }
}
