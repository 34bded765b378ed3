// The pages: which is in sight, and what the API says.

import { access, ask, post } from "./api.js";
import { CallPage, health as mediaHealth } from "./call.js";
import { chart } from "./charts.js";
import { $, duration, figures, link, make, moment, options, row, said, tell } from "./elements.js";
import { Live } from "./live.js";
import { Phone } from "./phone.js";

const PAGES = ["phone", "live", "past", "call", "numbers", "health"];
const EVERY_MS = { live: 2000, health: 5000 };
const RETRY_MS = 5000; // what the other pages wait for a gateway that does not answer

// ---------------------------------------------------------------- pages

let page = "", of = [], timer = 0; // `of`: what the address says behind the page's name

function show(name) {
  for (const one of [...PAGES, "access"]) $(`page-${one}`).hidden = one !== name;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#${name}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
}

async function go() {
  const [wanted, ...rest] = location.hash.slice(1).split("/").map(decodeURIComponent);
  if (page === "call") call.leave();
  page = PAGES.includes(wanted) ? wanted : "phone";
  of = rest;
  clearTimeout(timer);
  show(page);
  await refresh();
}

async function refresh() {
  const current = page;
  let again = EVERY_MS[current];
  clearTimeout(timer);
  try {
    await permitted();
    await { phone: lines, live: () => live.refresh(), past: () => past(), call: () => call.show(...of), numbers, health }[current]();
    said("");
  } catch (problem) {
    said(problem.message);
    if (problem.message) again ||= RETRY_MS;
  }
  clearTimeout(timer); // of somebody who was here meanwhile
  if (again && page === current && !document.hidden) timer = setTimeout(refresh, again);
}

// Nobody looks: nobody is asked.
document.addEventListener("visibilitychange", () => {
  clearTimeout(timer);
  if (!document.hidden && EVERY_MS[page]) refresh();
});

let permittedFor = null;

async function permitted() {
  if (permittedFor === access.token) return;
  const { scopes } = await ask("scopes");
  access.scopes = new Set(scopes);
  permittedFor = access.token;
  for (const one of document.querySelectorAll("[data-scope]")) one.hidden = !access.scopes.has(one.dataset.scope);
}

// ---------------------------------------------------------------- phone

let known = ""; // the configuration that the lists are of

async function lines() {
  const { number, since, carriers, carriers_off: off, bots, numbers: keys, answers } = await ask("configuration");
  if (known === `${number} ${since}`) return;
  known = `${number} ${since}`;
  options($("carrier"), carriers);
  options($("route-carrier"), carriers);
  options($("past-carrier"), [...carriers, ...Object.keys(off)].sort(), "every carrier");
  const dialled = keys.filter((key) => /^\+?\d/.test(key)).map((key) => [key.replace("*", "00").replaceAll(" ", ""), answers[key].bot]);
  const before = $("whom").value;
  $("whom").replaceChildren(
    group("Numbers", [...dialled.map(([one, bot]) => new Option(`${one}: ${bot}`, `number:${one}`)), new Option("another number", "other")]),
    group("Bots", bots.map((one) => new Option(one, `bot:${one}`))),
  );
  if (before) $("whom").value = before;
  if ($("whom").selectedIndex < 0) $("whom").selectedIndex = 0;
  $("whom").dispatchEvent(new Event("change"));
}

function group(label, members) {
  return make("optgroup", { label }, ...members);
}

// ---------------------------------------------------------------- past calls

let older = "";

async function past(more = false) {
  await lines();
  const asked = new URLSearchParams({ limit: 50, number: $("past-number").value.trim(), carrier: $("past-carrier").value });
  if (more) asked.set("after", older);
  const { calls, next } = await ask(`calls?${asked}`);
  const made = calls.map((one) => {
    const at = moment(one.created), address = `#call/${encodeURIComponent(one.carrier)}/${encodeURIComponent(one.call_id)}`;
    const media = mediaHealth(one.counters);
    const line = row([link(at, address, `${at}: all of this call`), one.carrier, one.from_number, one.to_number, one.bot,
      duration(one.duration_s), one.ended_by || one.standing, one.reason, one.hang_up, media]);
    line.classList.toggle("bad", one.hang_up === "failed" || one.reason === "error" || one.standing === "lost");
    return line;
  });
  if (more) $("past-rows").append(...made);
  else $("past-rows").replaceChildren(...made);
  older = next;
  $("past-more").hidden = !next;
  $("past-none").hidden = Boolean($("past-rows").children.length);
  $("past-none").textContent = asked.get("number") || asked.get("carrier") ? "No call fits." : "There was no call yet.";
}

// ---------------------------------------------------------------- numbers

async function numbers() {
  await lines();
  const { last_reload: last, number, since, file, bots, numbers: keys, answers, carriers, carriers_off: off, warnings } =
    await ask("configuration");
  const answering = new Set(keys.flatMap((key) => [answers[key].bot, answers[key].closed, ...Object.keys(answers[key].share)]));
  $("answers").replaceChildren(...keys.map((key) => {
    const { bot, hours, closed, share, language } = answers[key];
    const shares = Object.entries(share).map(([other, percent]) => `${percent} % of the calls: ${other}`);
    return row([key, bot, [...shares, hours && `outside of ${hours}: ${closed}`, language && `in ${language}`].filter(Boolean).join("; ")]);
  }));
  figures($("configuration"), {
    "number of the configuration": number, since: moment(since), file,
    carriers: carriers.join(", "), "bots of no number": bots.filter((bot) => !answering.has(bot)).join(", "),
    "last reload": last ? `${last.taken ? "taken" : "refused"}, ${new Date(last.at * 1000).toLocaleTimeString()}` : "none",
  });
  const mistakes = [
    ...(last?.errors || []).map((one) => `${one.path}: ${one.problem} (${one.remedy})`),
    ...Object.entries(off).map(([name, why]) => `${name} is off: ${why}`), ...warnings,
  ];
  $("mistakes").replaceChildren(...mistakes.map((textContent) => make("li", { textContent })));
}

async function route(event) {
  event.preventDefault();
  const asked = new URLSearchParams({ number: $("route-number").value.trim(), carrier: $("route-carrier").value });
  try {
    const { why, considered } = await ask(`route?${asked}`);
    $("route-answer").textContent = why;
    $("route-considered").replaceChildren(...considered.map(({ key, matched, why: because }) =>
      make("li", { textContent: `${matched ? "✓ " : ""}[numbers."${key}"] ${because}` })));
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
  const { points, now, carriers, reasons } = await ask("health");
  const { begun, turned_away: away, not_authentic: forged, ...rest } = now;
  figures($("health-now"), { ...rest, "calls begun": begun, "turned away": away, "signatures that failed": forged });
  $("health-carriers").replaceChildren(...carriers.map((one) => {
    const made = row([one.on ? one.carrier : `${one.carrier} (off)`, one.begun, one.turned_away, one.not_authentic]);
    made.classList.toggle("bad", one.not_authentic > 0);
    return made;
  }));
  const why = Object.entries(reasons).map(([reason, count]) => `${reason} ${count}`).join(", ");
  $("health-reasons").textContent = why ? `Turned away: ${why}.` : "Nobody was turned away.";
  $("charts").replaceChildren();
  for (const [title, name, unit] of CHARTS) chart($("charts"), title, points.map((point) => [point.t, point[name]]), unit);
}

// ---------------------------------------------------------------- start

access.refused = (had) => {
  show("access");
  $("access-problem").textContent = had ? "The gateway does not take this token, or not any more." : "";
  $("token").focus();
};
const live = new Live(), call = new CallPage();
new Phone(access);
addEventListener("hashchange", () => {
  go();
  $("main").focus({ preventScroll: true });
  scrollTo(0, 0);
});
$("access").addEventListener("submit", (event) => {
  event.preventDefault();
  access.token = $("token").value.trim();
  go();
});
for (const form of ["past-form", "live-form"]) $(form).addEventListener("submit", (event) => { event.preventDefault(); refresh(); });
$("past-more").addEventListener("click", () => tell(() => past(true)));
$("route-form").addEventListener("submit", route);
$("reload").addEventListener("click", () => tell(async () => { await post("reload"); await numbers(); }));
go();
