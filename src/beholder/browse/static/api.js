// Questions to the server; every failure is an Error whose message is one line for people.

const SILENT = "the server does not answer; is `beholder browse` still running?";

export class Problem extends Error {
  constructor(status, text) {
    super(text);
    this.status = status;
  }
}

async function answer(response) {
  let body = null;
  try {
    body = await response.json();
  } catch {
    throw new Problem(response.status, `the server answers ${response.status}`);
  }
  if (!response.ok) throw new Problem(response.status, body.error ?? `the server answers ${response.status}`);
  return body;
}

async function ask(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, SILENT);
  }
  return answer(response);
}

export const get = (path, parameters = {}, signal = undefined) => {
  const query = new URLSearchParams(parameters).toString();
  return ask(query ? `${path}?${query}` : path, { signal });
};

export const post = (path, body, signal = undefined) =>
  ask(path, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body), signal });

// why the server does not send what is at an address; null: it does, and the rest of it is not fetched
export async function refusal(path) {
  const control = new AbortController();
  try {
    const response = await fetch(path, { signal: control.signal });
    if (!response.ok) await answer(response);
  } catch (error) {
    return error instanceof Problem ? error.message : SILENT;
  }
  control.abort();
  return null;
}
