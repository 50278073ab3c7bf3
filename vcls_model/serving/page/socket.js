// The service's address, and sockets to it.

const token = new URLSearchParams(location.hash.slice(1)).get("token");

const headers = token ? { Authorization: `Bearer ${token}` } : {};

/** A picture as a blob; null where there is none. */
export async function getPicture(path) {
  const answer = await fetch(path, { headers });
  return answer.ok ? answer.blob() : null;
}

export async function get(path) {
  return (await checked(await fetch(path, { headers }))).json();
}

/** Sends a file, and hands on each line of the answer, which is JSON. */
export async function sendFile(path, file, signal, hear) {
  const request = { method: "POST", body: file, signal };
  request.headers = { ...headers, "Content-Type": "application/octet-stream" };
  const sent = fetch(path, request).catch(() => {
    throw new Error("the service cannot be reached.");
  });
  const answer = await checked(await sent);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    const lines = (text + part.value).split("\n");
    text = lines.pop();
    for (const line of lines) hear(JSON.parse(line));
  }
}

async function checked(answer) {
  if (answer.ok) return answer;
  const { error } = await answer.json().catch(() => ({ error: answer.statusText }));
  throw new Error(answer.status === 401 ? "This service wants a token: add #token=… to the address." : error);
}

export function open(path) {
  const address = new URL(path, location.href);
  address.protocol = address.protocol === "https:" ? "wss:" : "ws:";
  address.hash = "";
  const protocols = ["vcls-live"];
  if (token) protocols.push(`token.${token}`);
  const socket = new WebSocket(address, protocols);
  socket.binaryType = "arraybuffer";
  return socket;
}
