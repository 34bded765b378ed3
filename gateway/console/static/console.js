// The pages: which is in sight, and what the API says.

import { chart } from "./charts.js";
import { Phone, figures } from "./phone.js";

const $ = (id) => document.getElementById(id);
const PAGES = ["phone", "live", "past", "numbers", "health"];
const EVERY_MS = { live: 1000, health: 5000 };

const access = {
  get token() { return sessionStorage.getItem("token") || ""; },
  set token(value) { sessionStorage.setItem("token", value); },
};

async function ask(path, options = {}) {
  const headers = access.token ? { authorization: `Bearer ${access.token}` } : {};
  const reply = await fetch(`../${path}`, { ...options, headers: { ...headers, ...options.headers } });
  if (reply.status === 401) {
    show("access");
    throw new Error("a token is needed");
  }
  const body = await reply.json();
  if (!reply.ok && !("taken" in body)) throw new Error(body.detail || reply.statusText); // a refused reload says why
  return body;
}

const post = (path, body = {}) =>
  ask(path, { method: "POST", body: JSON.stringify(body), headers: { "content-type": "application/json" } });

// ---------------------------------------------------------------- pages

let page = "", timer = 0;

function show(name) {
  for (const one of [...PAGES, "access"]) $(`page-${one}`).hidden = one !== name;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#${name}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
}

async function go() {
  const wanted = location.hash.slice(1);
  page = PAGES.includes(wanted) ? wanted : "phone";
  clearTimeout(timer);
  show(page);
  await refresh();
}

async function refresh() {
  const current = page;
  try {
    await { phone: lines, live, past: () => past(), numbers, health }[current]();
    $("state").textContent = "";
  } catch (problem) {
    $("state").textContent = problem.message;
  }
  if (EVERY_MS[current] && page === current) timer = setTimeout(refresh, EVERY_MS[current]);
}

// ---------------------------------------------------------------- phone

let known = 0; // the number of the configuration that the lists are of

async function lines() {
  const { number, carriers, bots, numbers: keys } = await ask("api/configuration");
  if (number === known) return;
  known = number;
  options($("carrier"), carriers);
  options($("route-carrier"), carriers);
  const dialled = keys.filter((key) => /^\+?\d/.test(key)).map((key) => key.replace("*", "00").replaceAll(" ", ""));
  const before = $("whom").value;
  $("whom").replaceChildren(
    group("Numbers", [...dialled.map((one) => new Option(one, `number:${one}`)), new Option("another number", "other")]),
    group("Bots", bots.map((one) => new Option(one, `bot:${one}`))),
  );
  if (before) $("whom").value = before;
  if ($("whom").selectedIndex < 0) $("whom").selectedIndex = 0;
  $("whom").dispatchEvent(new Event("change"));
}

function group(label, members) {
  const made = Object.assign(document.createElement("optgroup"), { label });
  made.append(...members);
  return made;
}

function options(select, names) {
  const before = select.value;
  select.replaceChildren(...names.map((name) => new Option(name, name)));
  if (names.includes(before)) select.value = before;
}

// ---------------------------------------------------------------- tables

function row(cells) {
  const made = document.createElement("tr");
  for (const cell of cells) {
    const data = document.createElement("td");
    data.append(cell instanceof Node ? cell : String(cell ?? ""));
    made.append(data);
  }
  return made;
}

function button(text, label, act) {
  const made = document.createElement("button");
  made.type = "button";
  made.textContent = text;
  made.setAttribute("aria-label", label);
  made.addEventListener("click", act);
  return made;
}

const duration = (s) => (s == null ? "" : `${Math.floor(s / 60)}:${String(Math.floor(s % 60)).padStart(2, "0")}`);

const rows = new Map(); // of live calls, by their ids: kept, so that what has focus stays where it is

async function live() {
  const { calls } = await ask("api/calls/live");
  const filter = $("live-filter").value.toLowerCase();
  const shown = calls.filter((one) => `${one.carrier} ${one.from_number} ${one.to_number} ${one.bot}`.toLowerCase().includes(filter));
  $("live-count").textContent = `${calls.length} up${filter ? `, ${shown.length} shown` : ""}`;
  const here = new Set();
  for (const one of shown) {
    const key = `${one.carrier}/${one.call_id}`;
    here.add(key);
    const values = [one.carrier, one.from_number, one.to_number, one.bot, one.state, duration(one.duration_s),
      one.counters.interruptions || 0, one.counters.underruns || 0];
    let made = rows.get(key);
    if (!made) {
      const end = button("End", `End the call from ${one.from_number}`, async () => {
        await post(`api/calls/${encodeURIComponent(one.carrier)}/${encodeURIComponent(one.call_id)}/end`);
      });
      made = row([...values, end]);
      rows.set(key, made);
      $("live-rows").append(made);
    }
    values.forEach((value, index) => {
      if (made.children[index].textContent !== String(value ?? "")) made.children[index].textContent = value ?? "";
    });
  }
  for (const [key, made] of rows) {
    if (!here.has(key)) {
      made.remove();
      rows.delete(key);
    }
  }
}

let older = "";

async function past(more = false) {
  const asked = new URLSearchParams({ limit: 50, number: $("past-number").value.trim(), carrier: $("past-carrier").value.trim() });
  if (more) asked.set("after", older);
  const { calls, next } = await ask(`api/calls?${asked}`);
  const made = calls.map((one) => {
    const bad = one.hang_up === "failed" || one.reason === "error";
    const at = new Date(one.created * 1000).toLocaleString();
    const when = button(at, `${at}: show all of this call`, () => detail(one));
    const line = row([when, one.carrier, one.from_number, one.to_number, one.bot, duration(one.duration_s),
      one.ended_by || one.standing, one.reason, one.hang_up]);
    line.classList.toggle("bad", bad);
    return line;
  });
  if (more) $("past-rows").append(...made);
  else $("past-rows").replaceChildren(...made);
  older = next;
  $("past-more").hidden = !next;
}

function detail(one) {
  const { counters, variables, ...plain } = one;
  for (const name of ["created", "answered", "ended"]) if (plain[name]) plain[name] = new Date(plain[name] * 1000).toLocaleString();
  figures($("past-figures"), { ...plain, ...counters, ...variables });
  $("past-detail-title").textContent = `${one.carrier} ${one.call_id}`;
  $("past-detail").hidden = false;
  $("past-detail").scrollIntoView({ behavior: "smooth", block: "nearest" });
}

// ---------------------------------------------------------------- numbers

async function numbers() {
  await lines();
  const { last_reload: last, number, since, file, bots, numbers: keys, carriers, carriers_off: off, warnings } =
    await ask("api/configuration");
  figures($("configuration"), {
    "number of the configuration": number, since: new Date(since * 1000).toLocaleString(), file,
    numbers: keys.join(", "), bots: bots.join(", "), carriers: carriers.join(", "),
    "last reload": last ? `${last.taken ? "taken" : "refused"}, ${new Date(last.at * 1000).toLocaleTimeString()}` : "none",
  });
  const mistakes = [
    ...(last?.errors || []).map((one) => `${one.path}: ${one.problem} (${one.remedy})`),
    ...Object.entries(off).map(([name, why]) => `${name} is off: ${why}`), ...warnings,
  ];
  $("mistakes").replaceChildren(...mistakes.map((text) => Object.assign(document.createElement("li"), { textContent: text })));
}

async function route(event) {
  event.preventDefault();
  const asked = new URLSearchParams({ number: $("route-number").value.trim(), carrier: $("route-carrier").value });
  try {
    const { why, considered } = await ask(`api/route?${asked}`);
    $("route-answer").textContent = why;
    $("route-considered").replaceChildren(...considered.map(({ key, matched, why: because }) =>
      Object.assign(document.createElement("li"), { textContent: `${matched ? "✓ " : ""}[numbers."${key}"] ${because}` })));
  } catch (problem) {
    $("route-answer").textContent = problem.message;
  }
}

// ---------------------------------------------------------------- health

const CHARTS = [
  ["Live calls", "calls", ""], ["Lateness, 99th percentile", "late_ms", "ms"],
  ["Calls begun per minute", "begun", ""], ["Turned away per minute", "refused", ""],
  ["Signatures that failed per minute", "not_authentic", ""], ["Processor", "cpu", "%"],
];

async function health() {
  const { points, now } = await ask("api/health");
  figures($("health-now"), now);
  $("charts").replaceChildren();
  for (const [title, name, unit] of CHARTS) chart($("charts"), title, points.map((point) => [point.t, point[name]]), unit);
}

// ---------------------------------------------------------------- start

new Phone(access);
addEventListener("hashchange", () => { go(); $("main").focus(); });
$("access").addEventListener("submit", (event) => {
  event.preventDefault();
  access.token = $("token").value.trim();
  go();
});
$("live-filter").addEventListener("input", () => live());
$("past-form").addEventListener("submit", (event) => { event.preventDefault(); refresh(); });
$("past-more").addEventListener("click", () => past(true));
$("route-form").addEventListener("submit", route);
$("reload").addEventListener("click", async () => { await post("api/reload"); await refresh(); });
go();
