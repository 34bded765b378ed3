// A live call as it goes on: RTVI over a WebSocket, to which the API gives the address.

import { access, pathOf, post } from "./api.js";
import { readable } from "./counters.js";
import { $, figures, save } from "./elements.js";
import { endWords, Session } from "./rtvi.js";
import { Timeline } from "./timeline.js";

export class Watch {
  constructor() {
    this.timeline = new Timeline({ canvas: $("watch-waves"), list: $("watch-timeline"), words: $("watch-words"), range: $("watch-at") });
    $("watch-listen").addEventListener("click", () => this.listen(!this.audio));
    $("watch-save").addEventListener("click", () => save("timeline.json",
      JSON.stringify({ call: this.call, ...this.timeline.json() }, null, 1), "application/json"));
    $("watch-mute").addEventListener("click", () => this.mute());
    this.does("watch-interrupt", "call.interrupt", "", {});
    this.does("watch-end", "call.end", "The call ends when what is queued was heard.", { reason: "console" });
    this.form("watch-say", "call.say", "It is being said.", (text) => ({ text }));
    this.form("watch-digits", "call.digits", "The keys are sent.", (digits) => ({ digits }));
    this.form("watch-transfer", "call.transfer", "The caller is being handed over.", (target) => ({ target }));
  }

  does(id, type, done, data) {
    $(id).addEventListener("click", async () => {
      if (await this.request(type, data)) this.state(done);
    });
  }

  form(id, type, done, data) {
    $(`${id}-form`).addEventListener("submit", async (event) => {
      event.preventDefault();
      if (!(await this.request(type, data($(id).value.trim())))) return;
      $(id).value = "";
      this.state(done);
    });
  }

  // Begins anew, whatever was watched before. `over` is called when the call has ended.
  async open(carrier, id, over) {
    this.close();
    this.timeline.clear();
    this.state("");
    $("watch-counts").replaceChildren();
    const scope = access.scopes.has("control") ? "control" : "listen";
    const mine = (this.mine = {}); // whoever opens another one meanwhile
    const { wsUrl } = await post(`${pathOf(carrier, id)}/rtvi`, { scope, audio: "stereo", rate: 0, format: "json" });
    if (mine !== this.mine) return;
    this.session = new Session(wsUrl, {
      call: ({ events, ...call }) => {
        this.call = call;
        $("watch-hands").disabled = false;
      },
      event: (event) => this.timeline.event(event),
      counters: (counters, state) => {
        this.counts = counters;
        this.figures(state);
      },
      sound: (samples, { rate, channels }) => channels === 2 && this.hear(samples, rate),
      silent: (t) => ["caller", "bot"].forEach((who) => this.timeline.silent(who, t)),
      over: (said) => {
        this.ended = true;
        this.state(endWords(said));
        this.figures("over");
        over();
      },
      closed: () => {
        if (!this.ended) this.state("The connection to the call is lost. Load the page again to go on.", true);
        this.close();
      },
    });
    this.timeline.live(true);
  }

  close() {
    $("watch-hands").disabled = true;
    this.mine = null;
    this.ended = false;
    this.session?.close();
    this.session = null;
    this.listen(false);
    this.muted(false);
    this.timeline.live(false);
  }

  state(text, bad = false) {
    $("watch-state").textContent = text;
    $("watch-state").classList.toggle("bad", bad);
  }

  figures(state) {
    figures($("watch-counts"), { state, ...readable(this.counts) });
  }

  // Whether it was done; what was wrong is shown.
  async request(t, d) {
    const problem = await (this.session?.request(t, d) ?? "nobody is watched");
    if (problem !== null) this.state(problem && `It was not done: ${problem}.`, Boolean(problem));
    return problem === "";
  }

  async mute() {
    const on = $("watch-mute").getAttribute("aria-pressed") !== "true";
    if (await this.request("call.mute", { on })) this.muted(on);
  }

  muted(on) {
    $("watch-mute").setAttribute("aria-pressed", on);
  }

  hear(samples, rate) {
    const caller = new Int16Array(samples.length / 2), bot = new Int16Array(samples.length / 2), both = new Int16Array(samples.length / 2);
    for (let i = 0; i < caller.length; i++) {
      caller[i] = samples[2 * i];
      bot[i] = samples[2 * i + 1];
      both[i] = Math.max(-32768, Math.min(32767, caller[i] + bot[i]));
    }
    this.timeline.audio("caller", caller, rate);
    this.timeline.audio("bot", bot, rate);
    this.earpiece?.port.postMessage(both.buffer, [both.buffer]);
  }

  async listen(on) {
    $("watch-listen").setAttribute("aria-pressed", on);
    if (!on) {
      this.audio?.close();
      this.audio = this.earpiece = null;
    } else if (this.session?.audio) {
      const audio = (this.audio = new AudioContext());
      await audio.audioWorklet.addModule("sound.js");
      if (audio !== this.audio) return;
      const processorOptions = { rate: this.session.audio.rate, ahead_s: 0.35, most_s: 2 }; // it comes in quarters of a second
      this.earpiece = new AudioWorkletNode(audio, "earpiece", { numberOfInputs: 0, outputChannelCount: [1], processorOptions });
      this.earpiece.connect(audio.destination);
    } else {
      $("watch-listen").setAttribute("aria-pressed", false);
    }
  }
}
