// Pieces that the pages are made of. Text is always text: nothing here reads markup.

export const $ = (id) => document.getElementById(id);

export function make(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

export function row(cells) {
  return make("tr", {}, ...cells.map((cell) => make("td", {}, cell instanceof Node ? cell : String(cell ?? ""))));
}

export function button(text, label, act) {
  const made = make("button", { type: "button", textContent: text });
  made.setAttribute("aria-label", label);
  made.addEventListener("click", act);
  return made;
}

export function link(text, href, label) {
  const made = make("a", { href, textContent: text });
  if (label) made.setAttribute("aria-label", label);
  return made;
}

export function options(select, names, first) {
  const before = select.value;
  const made = names.map((name) => new Option(name, name));
  select.replaceChildren(...(first ? [new Option(first, ""), ...made] : made));
  if (names.includes(before)) select.value = before;
}

// A list of names and values; what is empty is a dash.
export function figures(list, values) {
  list.replaceChildren(...Object.entries(values).map(([name, value]) => make("div", {},
    make("dt", { textContent: name.replaceAll("_", " ") }),
    make("dd", { textContent: shown(value) }))));
}

function shown(value) {
  if (value === null || value === undefined || value === "") return "–";
  return typeof value === "boolean" ? (value ? "yes" : "no") : String(value);
}

// Does it; what goes wrong stands beside the pages' names.
export async function tell(act) {
  try {
    await act();
    said("");
  } catch (problem) {
    said(problem.message);
  }
}

export function said(problem) {
  $("state").textContent = problem;
}

export const duration = (s) => (s == null ? "" : `${Math.floor(s / 60)}:${String(Math.floor(s % 60)).padStart(2, "0")}`);

export const moment = (s) => (s ? new Date(s * 1000).toLocaleString() : "");

export function save(name, content, type) {
  const href = URL.createObjectURL(content instanceof Blob ? content : new Blob([content], { type }));
  make("a", { href, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(href), 1000);
}
