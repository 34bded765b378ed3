// The table of live calls. Rows are kept, and only what has changed is written: it stays usable with hundreds of calls.

import { access, ask, pathOf, post } from "./api.js";
import { $, button, duration, link, options, row, tell } from "./elements.js";
import { inWords } from "./timeline.js";

const NUMBER = new Set(["duration_s", "interruptions", "gaps"]);

export class Live {
  constructor() {
    this.rows = new Map(); // by the calls' keys
    this.calls = [];
    for (const id of ["live-filter", "live-carrier", "live-state", "live-sort"]) {
      $(id).addEventListener("input", () => this.draw());
    }
  }

  async refresh() {
    const { calls } = await ask("calls/live");
    this.calls = calls.map((call) => ({ ...call, key: `${call.carrier}/${call.call_id}`, gaps: call.counters.underruns || 0,
      interruptions: call.counters.interruptions || 0, happened: happened(call) }));
    const here = new Set(this.calls.map((one) => one.key));
    for (const key of this.rows.keys()) if (!here.has(key)) this.rows.delete(key);
    options($("live-carrier"), [...new Set(calls.map((one) => one.carrier))].sort(), "every carrier");
    options($("live-state"), [...new Set(calls.map((one) => one.state))].sort(), "every state");
    this.draw();
  }

  chosen() {
    const text = $("live-filter").value.trim().toLowerCase(), carrier = $("live-carrier").value, state = $("live-state").value;
    const chosen = this.calls.filter((one) => (!carrier || one.carrier === carrier) && (!state || one.state === state) &&
      (!text || `${one.from_number} ${one.to_number} ${one.bot} ${one.call_id}`.toLowerCase().includes(text)));
    const by = $("live-sort").value;
    if (by === "newest") return chosen.reverse(); // they come oldest first
    return NUMBER.has(by) ? chosen.sort((one, other) => other[by] - one[by]) : chosen;
  }

  draw() {
    const chosen = this.chosen(), body = $("live-rows");
    const all = chosen.length === this.calls.length;
    $("live-count").textContent = `${this.calls.length} up${all ? "" : `, ${chosen.length} shown`}`;
    const before = [...body.children], wanted = chosen.map((one) => this.row(one));
    if (wanted.length !== before.length || wanted.some((made, index) => made !== before[index])) this.place(body, wanted);
    $("live-none").hidden = Boolean(chosen.length);
    $("live-none").textContent = this.calls.length ? "No call fits." : "No call is up. Make one with the phone.";
  }

  // In their order, moving as few as possible: what has focus keeps it.
  place(body, wanted) {
    const staying = new Set(wanted);
    for (const one of [...body.children]) if (!staying.has(one)) one.remove();
    let at = body.firstElementChild;
    for (const one of wanted) {
      if (one === at) at = at.nextElementSibling;
      else body.insertBefore(one, at);
    }
  }

  row(call) {
    const values = [call.carrier, call.from_number, call.to_number, call.bot, call.state, duration(call.duration_s),
      call.interruptions, call.gaps, call.happened];
    let made = this.rows.get(call.key);
    if (!made) {
      const who = call.from_number || call.call_id, actions = document.createElement("span");
      actions.append(link("Watch", `#call/${encodeURIComponent(call.carrier)}/${encodeURIComponent(call.call_id)}`, `Watch the call from ${who}`));
      if (access.scopes.has("control")) {
        actions.append(" ", button("End", `End the call from ${who}`, () => tell(async () => {
          await post(`${pathOf(call.carrier, call.call_id)}/end`, { reason: "console" });
        })));
      }
      made = row([...values, actions]);
      this.rows.set(call.key, made);
    }
    values.forEach((value, index) => {
      const cell = made.children[index], text = String(value ?? "");
      if (cell.textContent !== text) cell.textContent = text;
    });
    made.classList.toggle("bad", call.gaps > 0);
    return made;
  }
}

// Its words may be long: the call's own page has all of them.
function happened({ last_event: last, duration_s: now }) {
  if (!last) return "";
  const words = inWords(last).split(" (")[0];
  return `${words.length > 36 ? `${words.slice(0, 35).trim()} …` : words}, ${Math.max(0, Math.round(now - last.t))} s ago`;
}
