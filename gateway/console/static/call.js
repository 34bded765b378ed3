// One call, live or over: all that is known of it.

import { access, ask, pathOf } from "./api.js";
import { readable } from "./counters.js";
import { $, duration, figures, make, moment, tell } from "./elements.js";
import { cell } from "./timeline.js";
import { Watch } from "./watch.js";

// Which of a record's counters belong together.
const GROUPS = [
  ["Turns and waits", /^(turns?|turn_ms|turns_interrupted|answers?|answer_.*|first_word_ms|bot_start_ms|interruptions|interrupted_by_bot|floor_.*|digits|asleep)$/],
  ["Services", /^(stt|llm|tts|speech)_|^(apologies|held)$/],
  ["Media", /./],
];
// Media is in good health without any of these.
const BAD = ["underruns", "caller_lost", "caller_late", "late_dropped", "early_dropped", "send_failed", "peer_blocked",
  "codec_contradicted", "bad_messages", "protocol_errors", "errors", "carrier_errors", "rate_limited"];

export function health(counters) {
  const found = BAD.filter((name) => counters[name]).map((name) => `${counters[name]} ${name.replaceAll("_", " ")}`);
  return found.length ? found.join(", ") : "good";
}

export class CallPage {
  constructor() {
    this.watch = new Watch();
  }

  async show(carrier, id) {
    this.leave();
    $("call-title").textContent = `Call ${id} at ${carrier}`;
    $("call-live").hidden = true;
    const record = await ask(pathOf(carrier, id));
    this.draw(record);
    if (!record.live || !access.scopes.has("listen")) return;
    $("call-live").hidden = false;
    await this.watch.open(carrier, id, () => tell(async () => this.draw(await ask(pathOf(carrier, id)))));
  }

  leave() {
    this.watch.close();
  }

  draw(record) {
    const { counters, variables } = record;
    figures($("call-who"), {
      from: record.from_number, to: record.to_number, bot: record.bot, direction: record.direction,
      begun: moment(record.created), answered: moment(record.answered), ...(record.answered_by && { answered_by: record.answered_by }),
      ...(!record.live && { ended: moment(record.ended), duration: duration(record.duration_s) }),
    });
    $("call-end").parentElement.hidden = record.live; // the live figures say it
    figures($("call-end"), {
      standing: record.standing, ended_by: record.ended_by, why: record.reason,
      "the carrier says": [record.phase, record.cause].filter(Boolean).join(": "),
      "hang-up": record.hang_up + (record.hang_up_attempts ? `, asked ${record.hang_up_attempts} times` : ""),
      "media socket": record.stream_problem || "opened and kept", media: health(counters),
    });
    const left = { ...counters };
    for (const [title, members] of GROUPS) {
      const those = Object.fromEntries(Object.entries(left).filter(([name]) => members.test(name)));
      for (const name of Object.keys(those)) delete left[name];
      const list = $(`call-${title.split(" ")[0].toLowerCase()}`);
      figures(list, readable(those));
      list.parentElement.hidden = !Object.keys(those).length;
    }
    const said = [...(record.transcript || [])].sort((one, other) => one.t - other.t);
    $("call-said").replaceChildren(...said.map(({ t, who, text }) => make("li", { className: who },
      cell(`${duration(t)} ${who}`), cell(text))));
    $("call-said").parentElement.hidden = !said.length;
    figures($("call-variables"), variables);
    $("call-variables").parentElement.hidden = !Object.keys(variables).length;
  }
}
