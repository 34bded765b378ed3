// The dev phone: microphone and keys to /console/phone, and what comes back.

import { readable } from "./counters.js";
import { $, figures, link, make, save } from "./elements.js";
import { endWords, Session } from "./rtvi.js";
import { append, cell, Timeline } from "./timeline.js";

const WIRE_LINES = 2000;
const LATE_S = 0.25; // of the microphone's sound, on its way to here
// What the gateway alone can tell; the rest the carrier has told from its side.
const GATEWAYS = new Set(["voice", "turn", "bot", "mute", "state", "floor", "interruption", "answer", "error",
  "caller says", "bot says", "function", "service"]);

const NO_BOT = "No bot answers this number: [numbers] has no entry for it, and no default.";
const REFUSED = { // by the status of the media socket's handshake
  404: NO_BOT,
  503: "The gateway turned the call away: it has as many calls as it may have, too much to do, or is about to end.",
};

export class Phone {
  constructor(access) {
    this.access = access;
    this.timeline = new Timeline({ canvas: $("waves"), list: $("timeline"), words: $("words"), range: $("waves-at") });
    this.muted = false;
    this.wire = [];
    for (const key of "123456789*0#") {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = key;
      button.disabled = true;
      button.setAttribute("aria-label", { "*": "star", "#": "hash" }[key] || key);
      button.addEventListener("click", () => this.press(key));
      $("keypad").append(button);
    }
    $("dial").addEventListener("submit", (event) => { event.preventDefault(); this.call(); });
    $("hang-up").addEventListener("click", () => this.say({ hangup: true }));
    $("mute").addEventListener("click", () => {
      this.muted = !this.muted;
      $("mute").setAttribute("aria-pressed", this.muted);
    });
    $("whom").addEventListener("change", () => { $("to-label").hidden = $("whom").value !== "other"; });
    $("source").addEventListener("change", () => { $("wav-label").hidden = $("source").value !== "wav"; });
    $("noise").addEventListener("input", () => { $("noise-value").textContent = noiseWords($("noise").value); });
    $("loss").addEventListener("input", () => { $("loss-value").textContent = `${$("loss").value} %`; });
    $("wire-search").addEventListener("input", () => this.search());
    $("save-wav").addEventListener("click", () => save("heard.wav", wav(this.heard, this.rate), "audio/wav"));
    $("save-json").addEventListener("click", () =>
      save("timeline.json", JSON.stringify(this.everything(), null, 1), "application/json"));
    document.addEventListener("keydown", (event) => {
      const at = document.activeElement, typing = /INPUT|SELECT|TEXTAREA/.test(at?.tagName || "") && at.type !== "range";
      const elsewhere = $("page-phone").hidden || event.ctrlKey || event.metaKey || event.altKey;
      if (this.socket && !typing && !elsewhere && /^[0-9*#]$/.test(event.key)) this.press(event.key);
    });
  }

  state(text, bad = false) {
    $("call-state").textContent = text;
    $("call-state").classList.toggle("bad", bad);
  }

  async call() {
    this.state("Calling ...");
    $("call").disabled = true;
    try {
      // In the click, so that the browser lets it make a sound.
      this.audio = new AudioContext();
      await this.audio.audioWorklet.addModule("sound.js");
      await this.open(await this.source());
    } catch (problem) {
      this.state(problemWords(problem), true);
      this.close();
    }
  }

  async source() {
    const kind = $("source").value;
    if (kind === "microphone") {
      if (!navigator.mediaDevices) throw new Error("This page needs https, or this machine, for the microphone.");
      const constraints = { echoCancellation: true, noiseSuppression: false, autoGainControl: true };
      this.stream = await navigator.mediaDevices.getUserMedia({ audio: constraints });
      return this.audio.createMediaStreamSource(this.stream);
    }
    if (kind === "wav") {
      const [file] = $("wav").files;
      if (!file) throw new Error("Choose a file first.");
      const node = this.audio.createBufferSource();
      node.buffer = await this.audio.decodeAudioData(await file.arrayBuffer())
        .catch(() => { throw new Error("The browser cannot play this file: choose another, a WAV file for example."); });
      return node;
    }
    const node = this.audio.createConstantSource();
    node.offset.value = 0;
    return node;
  }

  open(source) {
    const url = new URL("phone", location.href);
    url.protocol = url.protocol.replace("http", "ws");
    this.clear();
    const socket = (this.socket = new WebSocket(url));
    socket.binaryType = "arraybuffer";
    socket.onopen = () => {
      this.asked = { carrier: $("carrier").value, ...whom(), from: $("from").value.trim(), rate: this.audio.sampleRate };
      this.say({ ...this.asked, token: this.access.token });
    };
    socket.onmessage = ({ data }) => (typeof data === "string" ? this.told(JSON.parse(data), source) : this.hear(data));
    socket.onclose = () => {
      if (!this.ending) this.state("The connection to the gateway broke.", true);
      this.close();
    };
  }

  clear() {
    this.gateways?.close();
    this.gateways = null;
    this.counts = {};
    this.id = "";
    this.timeline.clear();
    this.timeline.live(true);
    this.heard = [];
    this.ending = this.ended = null;
    this.wire = [];
    $("wire").replaceChildren();
    $("counts").replaceChildren();
  }

  talking(source) {
    const microphone = new AudioWorkletNode(this.audio, "microphone", { numberOfOutputs: 0 });
    source.connect(microphone);
    if (source.start) source.start();
    const rate = this.audio.sampleRate;
    microphone.port.onmessage = ({ data }) => {
      const samples = new Int16Array(data);
      if (this.muted) samples.fill(0);
      const noise = ($("noise").value / 100) ** 2 * 8000;
      if (noise) for (let i = 0; i < samples.length; i++) samples[i] += (Math.random() * 2 - 1) * noise;
      const lost = Math.random() * 100 < $("loss").value;
      if (lost) samples.fill(0);
      // Where the browser was too busy to bring the microphone's sound, there is silence: what follows is not moved.
      this.timeline.silent("caller", (performance.now() - this.opened) / 1000 - LATE_S);
      this.timeline.audio("caller", samples, rate);
      if (this.socket?.readyState === WebSocket.OPEN) this.socket.send(samples.buffer);
    };
  }

  told(message, source) {
    if (message.opened) {
      this.rate = message.opened.rate;
      this.earpiece = new AudioWorkletNode(this.audio, "earpiece",
        { numberOfInputs: 0, outputChannelCount: [1], processorOptions: { rate: this.rate } });
      this.earpiece.connect(this.audio.destination);
      this.talking(source);
      this.opened = performance.now();
      this.id = message.opened.call_id;
      this.state(`Connected: ${this.id}`);
      for (const button of [...this.buttons(), $("save-wav"), $("save-json")]) button.disabled = false;
      if (atNothing()) $("hang-up").focus(); // where the button was that had been pressed: it is off now
    } else if (message.event) {
      this.timeline.event(message.event);
    } else if (message.wire) {
      this.passed(message.wire);
    } else if (message.watch) {
      this.watch(message.watch);
    } else if (message.over) {
      this.ending = message.over;
      const { ended_by: by, problem, problems = [], refused, reason } = message.over;
      const wrong = problem || (reason === "no-bot" ? NO_BOT : REFUSED[refused]) || problems.join("; ") ||
        (refused ? `The gateway refused the call (${refused}).` : "");
      this.state(wrong || endWords({ ended_by: by }), Boolean(wrong));
      this.wrong = Boolean(wrong);
      if (this.id) $("call-state").append(" ", this.record());
      this.ends();
      if (by) this.figures();
    }
  }

  // When both have told it: the gateway knows better why.
  ends() {
    if (this.ending && this.ended && !this.wrong) $("call-state").firstChild.data = endWords(this.ended);
  }

  // At the end with what the caller's side has counted.
  figures() {
    const { state, ...counted } = this.counts, over = this.ending;
    const own = over && { "heard, s": over.heard_s, "first sound after, s": over.first_audio_s, gaps: over.gaps_of_the_gateway,
      "packets without microphone": over.microphone_late };
    figures($("counts"), { state: over ? "over" : state, ...readable(counted), ...own });
  }

  record() {
    return link("All of this call", `#call/${encodeURIComponent(this.asked.carrier)}/${encodeURIComponent(this.id)}`);
  }

  // What the gateway sees of this call. It goes on behind the phone's own end, until all was told.
  watch({ address, ahead_s: ahead }) {
    this.gateways?.close();
    this.gateways = new Session(address, {
      event: (event) => {
        if (GATEWAYS.has(event.what)) this.timeline.event({ ...event, t: Math.max(0, event.t + ahead) });
      },
      counters: (counters, state) => {
        this.counts = { state, ...counters };
        if (!this.ending) this.figures();
      },
      over: (said) => {
        this.ended = said;
        this.ends();
      },
      closed: () => this.timeline.draw(),
    });
  }

  hear(data) {
    const samples = new Int16Array(data);
    this.timeline.audio("bot", samples, this.rate);
    this.heard.push(samples);
    this.earpiece?.port.postMessage(data.slice(0), []);
  }

  press(key) {
    this.say({ digit: key });
  }

  say(message) {
    if (this.socket?.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(message));
  }

  buttons() {
    return [$("hang-up"), $("mute"), ...$("keypad").children];
  }

  passed(message) {
    this.wire.push(message);
    const { t, to, text, audio, bytes } = message;
    const said = text || `audio: ${audio} messages, ${bytes} bytes`;
    const item = document.createElement("li");
    item.append(cell(`${t.toFixed(3)} s`), cell(`${to ? "→" : "←"} ${said}`));
    item.className = `${to ? "to" : "from"} ${text ? "json" : "audio"}`;
    item.hidden = !found(said);
    append($("wire"), item, WIRE_LINES);
  }

  everything() {
    return { call: { ...this.asked, call_id: this.id }, ...this.timeline.json(), wire: this.wire, counts: this.counts, over: this.ending };
  }

  search() {
    for (const item of $("wire").children) item.hidden = !found(item.lastChild.textContent);
  }

  close() {
    this.timeline.live(false);
    this.stream?.getTracks().forEach((track) => track.stop());
    this.audio?.close();
    this.socket?.close();
    this.stream = this.audio = this.socket = this.earpiece = null;
    $("call").disabled = false;
    const wasHere = this.buttons().includes(document.activeElement);
    for (const button of this.buttons()) button.disabled = true;
    if (wasHere || atNothing()) $("call").focus();
    $("save-wav").disabled = !this.heard?.length;
    $("save-json").disabled = !this.timeline.events.length;
  }
}

const atNothing = () => !document.activeElement || document.activeElement === document.body;

function whom() {
  const [kind, name] = $("whom").value.split(/:(.*)/s);
  if (kind === "bot") return { bot: name };
  return { to: kind === "number" ? name : $("to").value.trim() };
}

function found(text) {
  return text.toLowerCase().includes($("wire-search").value.toLowerCase());
}

function noiseWords(value) {
  return value === "0" ? "none" : `${Math.round(20 * Math.log10(((value / 100) ** 2 * 8000) / 32768))} dBFS`;
}

function problemWords(problem) {
  if (problem.name === "NotAllowedError") return "The browser does not give the microphone: allow it for this page.";
  if (problem.name === "AbortError") return "The gateway does not answer.";
  if (problem.name === "NotFoundError") return "There is no microphone: choose a WAV file, or listen only.";
  return problem.message || String(problem);
}

function wav(pieces, rate) {
  const bytes = pieces.reduce((sum, piece) => sum + piece.byteLength, 0);
  const head = new DataView(new ArrayBuffer(44));
  const text = (at, word) => [...word].forEach((letter, i) => head.setUint8(at + i, letter.charCodeAt(0)));
  text(0, "RIFF"); head.setUint32(4, 36 + bytes, true); text(8, "WAVEfmt ");
  head.setUint32(16, 16, true); head.setUint16(20, 1, true); head.setUint16(22, 1, true);
  head.setUint32(24, rate, true); head.setUint32(28, 2 * rate, true);
  head.setUint16(32, 2, true); head.setUint16(34, 16, true); text(36, "data"); head.setUint32(40, bytes, true);
  return new Blob([head, ...pieces]);
}
