// What the page asks of the gateway, and with which token.

export const access = {
  get token() { return sessionStorage.getItem("token") || ""; },
  set token(value) { sessionStorage.setItem("token", value); },
  scopes: new Set(),
  refused: (had) => {}, // called when a token is needed; whether there was one
};

export async function ask(path, options = {}) {
  const headers = access.token ? { authorization: `Bearer ${access.token}` } : {};
  const reply = await fetch(`../api/${path}`, { ...options, headers: { ...headers, ...options.headers } })
    .catch(() => { throw new Error("The gateway does not answer."); });
  if (reply.status === 401) {
    access.refused(Boolean(access.token));
    throw new Error("");
  }
  const body = await reply.json().catch(() => { throw new Error(`The gateway answers with ${reply.status}.`); });
  if (!reply.ok && !("taken" in body)) throw new Error(words(body.detail) || reply.statusText); // a refused reload says why
  return body;
}

const words = (detail) => (typeof detail === "string" ? detail : detail?.map?.((one) => one.msg).join("; "));

export const post = (path, body = {}) =>
  ask(path, { method: "POST", body: JSON.stringify(body), headers: { "content-type": "application/json" } });

export const pathOf = (carrier, id) => `calls/${encodeURIComponent(carrier)}/${encodeURIComponent(id)}`;
