// What is told of a live call, over RTVI: docs/watching.md. Whoever takes part gives functions of what he wants:
//   call(data), event(entry), counters(counters, state), over(data), sound(samples, {rate, channels}), silent(t), closed().

const VERSION = "2.1.0";

export class Session {
  // `address`: the API's; only its path counts, for the page may have come by another name.
  constructor(address, wants) {
    this.wants = wants;
    this.asked = new Map(); // requests that wait for an answer, by id
    this.said = ""; // of the bot's reply, to its end
    this.began = Infinity; // the call, on this page's clock: as early as anything that was told says
    const url = new URL(`..${address.slice(address.indexOf("/calls/"))}`, location.href);
    url.protocol = url.protocol.replace("http", "ws");
    const socket = (this.socket = new WebSocket(url));
    socket.binaryType = "arraybuffer";
    socket.onopen = () => this.say("client-ready", { version: VERSION, about: { library: "console" } });
    socket.onmessage = ({ data }) => {
      if (typeof data !== "string") this.want("sound", new Int16Array(data), this.audio);
      else this.told(JSON.parse(data));
    };
    socket.onclose = () => this.want("closed");
  }

  // Nothing is told any more.
  close() {
    this.wants = {};
    this.socket.close();
    for (const answer of this.asked.values()) answer(null);
    this.asked.clear();
  }

  want(what, ...said) {
    this.wants[what]?.(...said);
  }

  say(type, data) {
    const id = String(++serial);
    this.socket.send(JSON.stringify({ label: "rtvi-ai", type, id, data }));
    return id;
  }

  // What was wrong with it; "" where it was done, null where that is not known any more.
  request(t, d) {
    if (this.socket.readyState !== WebSocket.OPEN) return Promise.resolve("the connection is closed");
    return new Promise((resolve) => this.asked.set(this.say("client-message", { t, d }), resolve));
  }

  told({ type, id, data }) {
    TAKES[type]?.(this, data, id);
  }

  server({ type, ...said }) {
    const t = said.t ?? said.duration_s;
    if (t !== undefined) this.began = Math.min(this.began, performance.now() - 1000 * t);
    if (type === "call") {
      this.audio = said.audio;
      this.want("call", said);
      for (const event of said.events) this.want("event", event);
      this.want("counters", said.counters, said.state);
    } else if (type === "event") {
      if (said.what === "bot" && said.on) this.said = "";
      if (said.what === "interruption") this.cutOff(said.heard || "");
      this.want("event", said);
    } else if (type === "counters") {
      this.want("counters", said.counters, said.state);
    } else if (type === "audio") {
      this.want("silent", said.t);
    } else if (type === "over") {
      this.want("over", said);
    }
  }

  // What is told without its time happens as it is told.
  moment(what, detail) {
    const t = Math.max(0, Math.round(performance.now() - this.began) / 1000);
    if (detail) this.want("event", { t, what, detail });
  }

  says(text) {
    this.said += `${text} `;
    this.moment("bot says", text);
  }

  // `heard`: of the whole reply, of which some may have been told as said.
  cutOff(heard) {
    const said = this.said.trim(), rest = (heard.startsWith(said) ? heard.slice(said.length) : heard).trim();
    if (rest) this.moment("bot says", `${rest} …`);
    this.said = "";
  }

  answered(id, problem) {
    this.asked.get(id)?.(problem);
    this.asked.delete(id);
  }
}

// How a call has ended, for people.
export function endWords({ ended_by: by, reason }) {
  if (reason === "console") return "Over: ended from the console.";
  const why = reason && reason !== "completed" && reason !== by ? ` (${reason})` : "";
  return `Over: ended by the ${by}${why}.`;
}

let serial = 0;

const firstBytes = ({ ttfb = [] }) => ttfb.filter((one) => one.value > 0)
  .map((one) => `${one.processor}: first answer after ${Math.round(1000 * one.value)} ms`).join(", ");

const TAKES = {
  "server-message": (session, data) => session.server(data),
  "server-response": (session, data, id) => session.answered(id, ""),
  "error-response": (session, data, id) => session.answered(id, data.error),
  "user-transcription": (session, data) => data.final && session.moment("caller says", data.text),
  "bot-output": (session, data) => data.spoken && session.says(data.text),
  "llm-function-call-in-progress": (session, data) => session.moment("function", data.function_name),
  metrics: (session, data) => session.moment("service", firstBytes(data)),
};
