// A live call as it goes on: RTVI over a WebSocket, to which the API gives the address.

import { access, pathOf, post } from "./api.js";
import { $, figures, save } from "./elements.js";
import { Timeline } from "./timeline.js";

const VERSION = "2.1.0";

export class Watch {
  constructor() {
    this.timeline = new Timeline({ canvas: $("watch-waves"), list: $("watch-timeline"), words: $("watch-words"), range: $("watch-at") });
    this.asked = new Map(); // requests that wait for an answer, by id
    $("watch-listen").addEventListener("click", () => this.listen(!this.audio));
    $("watch-save").addEventListener("click", () => save("timeline.json",
      JSON.stringify({ call: this.call, ...this.timeline.json() }, null, 1), "application/json"));
    $("watch-mute").addEventListener("click", () => this.mute());
    this.does("watch-interrupt", "call.interrupt", () => ({}));
    this.does("watch-end", "call.end", () => ({ reason: "console" }));
    this.form("watch-say", "call.say", (text) => ({ text }));
    this.form("watch-digits", "call.digits", (digits) => ({ digits }));
    this.form("watch-transfer", "call.transfer", (target) => ({ target }));
  }

  does(id, type, data) {
    $(id).addEventListener("click", () => this.request(type, data()));
  }

  form(id, type, data) {
    $(`${id}-form`).addEventListener("submit", async (event) => {
      event.preventDefault();
      if (await this.request(type, data($(id).value.trim()))) $(id).value = "";
    });
  }

  // Begins anew, whatever was watched before. `over` is called when the call has ended.
  async open(carrier, id, over) {
    this.close();
    this.timeline.clear();
    this.state("");
    this.over = over;
    const scope = access.scopes.has("control") ? "control" : "listen";
    const mine = (this.mine = {}); // whoever opens another one meanwhile
    const { wsUrl } = await post(`${pathOf(carrier, id)}/rtvi`, { scope, audio: "stereo", rate: 0, format: "json" });
    if (mine !== this.mine) return;
    const there = new URL(wsUrl), url = new URL(`..${there.pathname.slice(there.pathname.indexOf("/calls/"))}${there.search}`, location.href);
    url.protocol = url.protocol.replace("http", "ws"); // where the page came from, by whatever name
    const socket = (this.socket = new WebSocket(url));
    socket.binaryType = "arraybuffer";
    socket.onopen = () => this.say("client-ready", { version: VERSION, about: { library: "console" } });
    socket.onmessage = ({ data }) => {
      if (socket !== this.socket) return;
      if (typeof data === "string") this.told(JSON.parse(data));
      else this.hear(new Int16Array(data));
    };
    socket.onclose = () => {
      if (socket !== this.socket) return;
      if (!this.ended) this.state("The connection to the call is closed.");
      this.close();
    };
    this.timeline.live(true);
  }

  close() {
    $("watch-hands").disabled = true;
    this.mine = this.sound = null;
    this.ended = false;
    this.socket?.close();
    this.socket = null;
    this.asked.clear();
    this.listen(false);
    this.muted(false);
    this.timeline.live(false);
  }

  state(text) {
    $("watch-state").textContent = text;
  }

  say(type, data, id = crypto.randomUUID()) {
    this.socket?.send(JSON.stringify({ label: "rtvi-ai", type, id, data }));
    return id;
  }

  // Whether it was done; what was wrong is shown.
  request(t, d) {
    if (this.socket?.readyState !== WebSocket.OPEN) return Promise.resolve(false);
    return new Promise((resolve) => {
      const id = this.say("client-message", { t, d });
      this.asked.set(id, (problem) => {
        this.state(problem ? `${t}: ${problem}` : "");
        resolve(!problem);
      });
    });
  }

  async mute() {
    const on = $("watch-mute").getAttribute("aria-pressed") !== "true";
    if (await this.request("call.mute", { on })) this.muted(on);
  }

  muted(on) {
    $("watch-mute").setAttribute("aria-pressed", on);
  }

  // ---------------------------------------------------------------- what is told

  told({ type, id, data }) {
    const take = TAKES[type];
    if (take) take(this, data, id);
  }

  server(data) {
    if (data.type === "call") {
      const { events, ...call } = data;
      this.call = call;
      this.sound = data.audio;
      this.now = data.duration_s;
      $("watch-hands").disabled = false;
      for (const event of events) this.timeline.event(event);
      figures($("watch-counts"), { state: data.state, ...data.counters });
    } else if (data.type === "event") {
      const { type, ...event } = data;
      this.now = event.t;
      this.timeline.event(event);
    } else if (data.type === "counters") {
      this.now = data.t;
      figures($("watch-counts"), { state: data.state, ...data.counters });
    } else if (data.type === "audio") {
      for (const who of ["caller", "bot"]) this.timeline.silent(who, data.t);
    } else if (data.type === "over") {
      this.ended = true;
      this.state(`Over: ended by the ${data.ended_by}${data.reason ? ` (${data.reason})` : ""}.`);
      this.over();
    }
  }

  moment(what, detail) {
    if (detail) this.timeline.event({ t: this.now || 0, what, detail });
  }

  hear(samples) {
    if (!this.sound || this.sound.channels !== 2) return;
    const caller = new Int16Array(samples.length / 2), bot = new Int16Array(samples.length / 2), both = new Int16Array(samples.length / 2);
    for (let i = 0; i < caller.length; i++) {
      caller[i] = samples[2 * i];
      bot[i] = samples[2 * i + 1];
      both[i] = Math.max(-32768, Math.min(32767, caller[i] + bot[i]));
    }
    this.timeline.audio("caller", caller, this.sound.rate);
    this.timeline.audio("bot", bot, this.sound.rate);
    this.earpiece?.port.postMessage(both.buffer, [both.buffer]);
  }

  async listen(on) {
    $("watch-listen").setAttribute("aria-pressed", on);
    if (!on) {
      this.audio?.close();
      this.audio = this.earpiece = null;
    } else if (this.sound) {
      const audio = (this.audio = new AudioContext());
      await audio.audioWorklet.addModule("sound.js");
      if (audio !== this.audio) return;
      const processorOptions = { rate: this.sound.rate, ahead_s: 0.35, most_s: 2 }; // it comes in quarters of a second
      this.earpiece = new AudioWorkletNode(audio, "earpiece", { numberOfInputs: 0, outputChannelCount: [1], processorOptions });
      this.earpiece.connect(audio.destination);
    } else {
      $("watch-listen").setAttribute("aria-pressed", false);
    }
  }
}

const answered = (watch, id, problem) => {
  watch.asked.get(id)?.(problem);
  watch.asked.delete(id);
};

const TAKES = {
  "server-message": (watch, data) => watch.server(data),
  "server-response": (watch, data, id) => answered(watch, id, ""),
  "error-response": (watch, data, id) => answered(watch, id, data.error),
  "user-transcription": (watch, data) => data.final && watch.moment("caller says", data.text),
  "bot-output": (watch, data) => data.spoken && watch.moment("bot says", data.text),
  "llm-function-call-in-progress": (watch, data) => watch.moment("function", data.function_name),
  metrics: (watch, data) => watch.moment("service", (data.ttfb || []).filter((one) => one.value > 0)
    .map((one) => `${one.processor}: first answer after ${Math.round(1000 * one.value)} ms`).join(", ")),
};
