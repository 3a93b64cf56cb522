// What the page asks the server.

export class SignInNeeded extends Error {}

async function asked(path, options = {}) {
  const answer = await fetch(path, { credentials: "same-origin", cache: "no-store", ...options });
  if (answer.ok) return answer;
  const said = await answer.json().then((body) => body.error, () => answer.statusText);
  if (answer.status === 401) throw new SignInNeeded(said);
  throw new Error(`${said} (${answer.status})`);
}

export const overview = async () => (await asked("/console/api/overview")).json();
export const history = async (model) => (await asked(`/console/api/models/${encodeURIComponent(model)}`)).json();
export const metrics = async () => (await asked("/metrics")).text();
export const signIn = (token) => asked("/console/session", { method: "POST", headers: { authorization: `Bearer ${token}` } });
export const signOut = () => asked("/console/session", { method: "DELETE" });
