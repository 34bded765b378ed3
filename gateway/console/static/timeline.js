// One call over time: both voices, who had the floor, and what happened in between. Drawn, and told as a list.

const SECONDS = 30; // of a call that are in sight
const PER_S = 25; // columns of the waveforms
const LINES = 2000; // in the list
const EDGES = { // what begins and ends: the row that shows it, and its words
  voice: ["caller", "caller speaks", "caller is silent"],
  turn: ["turn", "caller's turn", "caller's turn is over"],
  bot: ["bot", "bot speaks", "bot is silent"],
  mute: ["mute", "caller is muted", "caller is heard again"],
};

// One entry, for people.
export function inWords({ what, on, detail }) {
  const edge = EDGES[what];
  if (edge && on !== undefined) return on ? edge[1] : edge[2];
  return detail ? `${what}: ${detail}` : what;
}

const QUIET = new Set(["opened", "audio", "ready", "mark", "played", "service", "state", "closed", "function", "caller says", "bot says"]); // not among the marks

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

// Where everything stands, in pixels from the top of the drawing.
const ROWS = { ticks: 12, caller: [18, 84], voice: 88, turn: 96, bot: [108, 174], speaks: 178, marks: 190, height: 232 };

export class Timeline {
  // `parts`: the elements canvas, list, words (of the conversation) and range (where to look).
  constructor(parts) {
    Object.assign(this, parts);
    this.range.addEventListener("input", () => {
      this.following = Number(this.range.value) >= Number(this.range.max);
      this.draw();
    });
    new ResizeObserver(() => this.draw()).observe(this.canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
    this.clear();
  }

  clear() {
    this.events = [];
    this.loud = { caller: [], bot: [] };
    this.rest = { caller: { peak: 0, samples: 0 }, bot: { peak: 0, samples: 0 } };
    this.spans = { voice: [], turn: [], bot: [], mute: [] };
    this.latest = 0; // seconds
    this.marks = [];
    this.following = true;
    this.list.replaceChildren();
    this.words.replaceChildren();
    this.draw();
  }

  // Drawn again and again, until it is called with false.
  live(on) {
    clearInterval(this.timer);
    this.timer = on ? setInterval(() => this.draw(), 100) : 0;
    this.draw();
  }

  // Samples of one voice, s16, at `rate`. Columns follow the samples, not the clock.
  audio(who, samples, rate) {
    const rest = this.rest[who], size = rate / PER_S;
    for (const sample of samples) {
      rest.peak = Math.max(rest.peak, Math.abs(sample));
      if (++rest.samples >= size) {
        this.loud[who].push(rest.peak / 32768);
        rest.peak = 0;
        rest.samples -= size;
      }
    }
  }

  // Sound of that voice follows from `t` on: there was none, or it was not told, until then.
  silent(who, t) {
    while (this.loud[who].length < Math.round(t * PER_S)) this.loud[who].push(0);
  }

  // {t, what, on} is an edge, {t, what, detail} a moment.
  event(event) {
    const { t, what, on, detail = "" } = event;
    this.events.push(event);
    this.latest = Math.max(this.latest, t);
    const edge = EDGES[what];
    if (edge && on !== undefined) {
      const spans = this.spans[what], last = spans[spans.length - 1];
      if (on) spans.push([t, null]);
      else if (last && last[1] === null) last[1] = Math.max(t, last[0]);
      this.line(t, inWords(event), what);
      return;
    }
    if (!QUIET.has(what) && !detail.startsWith("interrupted:")) this.marks.push({ t, text: short(what, detail) });
    if (what === "caller says" || what === "bot says") this.said(what.split(" ")[0], detail);
    this.line(t, inWords(event), what === "interruption" || what === "error" ? "important" : "");
  }

  line(t, text, kind) {
    const item = document.createElement("li");
    item.append(cell(`${t.toFixed(3)} s`), cell(text));
    if (kind) item.className = kind;
    append(this.list, item, LINES);
  }

  // Words come one by one or by the sentence: those of one speaker stand in one line.
  said(who, text) {
    const last = this.words.lastElementChild;
    if (last && last.className === who && who === "bot") {
      last.lastChild.textContent += ` ${text}`;
      return;
    }
    const item = document.createElement("li");
    item.className = who;
    item.append(cell(who === "bot" ? "Bot" : "Caller"), cell(text));
    append(this.words, item, LINES);
  }

  json() {
    const loudness = Object.fromEntries(Object.entries(this.loud).map(([who, peaks]) => [who, peaks.map(round)]));
    return { events: this.events, loudness: { per_second: PER_S, ...loudness } };
  }

  // ---------------------------------------------------------------- drawing

  draw() {
    const { canvas } = this, width = canvas.clientWidth;
    if (!width) return; // not in sight
    const scale = devicePixelRatio || 1, context = canvas.getContext("2d");
    canvas.width = width * scale;
    canvas.height = ROWS.height * scale;
    context.scale(scale, scale);
    const lasted = Math.max(this.latest, this.loud.caller.length / PER_S, this.loud.bot.length / PER_S);
    this.range.max = Math.max(SECONDS, lasted).toFixed(1);
    this.range.hidden = lasted <= SECONDS;
    if (this.following) this.range.value = this.range.max;
    const end = Math.max(SECONDS, Number(this.range.value)), begin = end - SECONDS;
    const view = { context, width, begin, x: (t) => ((t - begin) / SECONDS) * width };
    this.drawTicks(view);
    this.drawSpans(view, this.spans.voice, ROWS.voice, 5, "--caller", lasted);
    this.drawSpans(view, this.spans.turn, ROWS.turn, 5, "--turn", lasted);
    this.drawSpans(view, this.spans.bot, ROWS.speaks, 5, "--bot", lasted);
    this.drawVoice(view, "caller", ...ROWS.caller);
    this.drawVoice(view, "bot", ...ROWS.bot);
    this.drawMarks(view);
  }

  drawTicks({ context, begin, x }) {
    context.font = "10px system-ui, sans-serif";
    for (let t = Math.ceil(begin / 5) * 5; t <= begin + SECONDS; t += 5) {
      context.fillStyle = colour("--line");
      context.fillRect(x(t), ROWS.ticks + 4, 1, ROWS.height);
      context.fillStyle = colour("--soft");
      context.fillText(`${t} s`, x(t) + 2, ROWS.ticks);
    }
  }

  drawSpans({ context, begin, x }, spans, top, tall, name, now) {
    context.fillStyle = colour(name);
    for (const [from, to] of spans) {
      const until = to ?? now;
      if (until >= begin) context.fillRect(x(Math.max(from, begin)), top, Math.max(2, x(until) - x(Math.max(from, begin))), tall);
    }
  }

  drawVoice({ context, width, begin, x }, who, top, bottom) {
    const middle = (top + bottom) / 2, step = width / (SECONDS * PER_S), first = Math.round(begin * PER_S);
    context.fillStyle = colour(`--${who}`);
    context.fillRect(0, middle, width, 1);
    for (let column = 0; column < SECONDS * PER_S; column++) {
      const peak = this.loud[who][first + column] || 0;
      if (peak < 0.002) continue;
      const tall = Math.sqrt(peak) * (bottom - top);
      context.fillRect(x((first + column) / PER_S), middle - tall / 2, Math.max(1, step - 0.5), tall);
    }
  }

  // Each with its words in the first of three lines that has room.
  drawMarks({ context, width, begin, x }) {
    context.font = "11px system-ui, sans-serif";
    context.fillStyle = colour("--mark");
    const taken = [-1, -1, -1];
    for (const { t, text } of this.marks) {
      if (t < begin - 0.01 || t > begin + SECONDS) continue;
      const at = Math.min(x(t), width - 1);
      context.globalAlpha = 0.6;
      context.fillRect(at, ROWS.ticks + 4, 1, ROWS.height);
      context.globalAlpha = 1;
      const wide = context.measureText(text).width, left = Math.max(0, Math.min(at + 3, width - wide));
      const line = taken.findIndex((right) => right < left - 4);
      if (line < 0) continue; // the list has it
      context.fillText(text, left, ROWS.marks + 11 + line * 14);
      taken[line] = left + wide;
    }
  }
}

const round = (value) => Math.round(value * 1000) / 1000;

function short(what, detail) {
  if (what === "floor") return detail.split(":")[0];
  if (what === "answer") return `answer ${detail.split(",")[0]}`;
  if (what === "digit") return `key ${detail}`;
  return what;
}

export function cell(text) {
  return Object.assign(document.createElement("span"), { textContent: text });
}

// Behind the others, and in sight if the last one was.
export function append(list, item, most) {
  const following = list.scrollHeight - list.scrollTop - list.clientHeight < 30;
  list.append(item);
  while (list.children.length > most) list.firstElementChild.remove();
  if (following) list.scrollTop = list.scrollHeight;
}
