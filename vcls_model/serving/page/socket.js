// The service's address, and sockets to it.

const token = new URLSearchParams(location.hash.slice(1)).get("token");

const headers = token ? { Authorization: `Bearer ${token}` } : {};

/** A picture as a blob; null where there is none. */
export async function getPicture(path) {
  const answer = await fetch(path, { headers });
  return answer.ok ? answer.blob() : null;
}

export async function get(path) {
  const answer = await fetch(path, { headers });
  if (!answer.ok) {
    const { error } = await answer.json().catch(() => ({ error: answer.statusText }));
    throw new Error(answer.status === 401 ? "This service wants a token: add #token=… to the address." : error);
  }
  return answer.json();
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
