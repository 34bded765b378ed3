// Drawing: the two voices of a call over time, and the last hour of the gateway.

const SECONDS = 30; // of a call that are in sight
const PER_S = 25; // columns

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

export class Waves {
  constructor(canvas) {
    this.canvas = canvas;
    this.clear();
  }

  clear() {
    this.loud = { caller: [], bot: [] };
    this.rest = { caller: { peak: 0, samples: 0 }, bot: { peak: 0, samples: 0 } };
    this.marks = [];
    this.began = performance.now();
    this.draw();
  }

  // Samples of one voice, s16, at `rate`. Columns follow the samples, not the clock.
  add(who, samples, rate) {
    const rest = this.rest[who], size = rate / PER_S;
    for (const sample of samples) {
      rest.peak = Math.max(rest.peak, Math.abs(sample));
      if (++rest.samples >= size) {
        this.loud[who].push(rest.peak / 32768);
        rest.peak = 0;
        rest.samples = 0;
      }
    }
  }

  mark(t, what) {
    this.marks.push({ t, what });
  }

  draw() {
    const { canvas } = this, context = canvas.getContext("2d");
    const width = (canvas.width = canvas.clientWidth * devicePixelRatio || 1000);
    const height = (canvas.height = 150 * devicePixelRatio);
    const columns = SECONDS * PER_S, step = width / columns;
    const newest = Math.max(this.loud.caller.length, this.loud.bot.length, columns);
    for (const [who, middle] of [["caller", height * 0.27], ["bot", height * 0.73]]) {
      context.fillStyle = colour(`--${who}`);
      context.fillRect(0, middle, width, 1);
      for (let column = 0; column < columns; column++) {
        const peak = this.loud[who][newest - columns + column] || 0;
        const tall = Math.sqrt(peak) * height * 0.42;
        if (peak > 0.002) context.fillRect(column * step, middle - tall / 2, Math.max(1, step - 0.5), tall);
      }
    }
    context.fillStyle = context.strokeStyle = colour("--mark");
    context.font = `${11 * devicePixelRatio}px system-ui`;
    let taken = -1; // how far to the right the words of the lower line reach
    for (const { t, what } of this.marks) {
      const x = (t * PER_S - (newest - columns)) * step;
      if (x < 0 || x > width) continue;
      context.fillRect(x, 0, 1, height);
      const wide = context.measureText(what).width, at = Math.min(x + 3, width - wide);
      context.fillText(what, at, at > taken ? height - 4 : 12 * devicePixelRatio);
      taken = Math.max(taken, at + wide);
    }
  }
}

const SVG = "http://www.w3.org/2000/svg";

function element(name, attributes, parent, text = "") {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.textContent = text;
  parent.append(made);
  return made;
}

// One line over time. `points`: [Unix seconds, value].
export function chart(parent, title, points, unit) {
  const width = 400, height = 150, left = 46, bottom = 22, top = 22;
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.setAttribute("role", "img");
  const latest = points.length ? points[points.length - 1][1] : 0;
  svg.setAttribute("aria-label", `${title}: ${format(latest, unit)} now`);
  element("text", { x: left, y: 14 }, svg, title);
  const most = Math.max(...points.map(([, value]) => value), unit === "ms" ? 5 : 1);
  const first = points.length ? points[0][0] : 0, last = points.length ? points[points.length - 1][0] : 1;
  const x = (t) => left + ((t - first) / Math.max(1, last - first)) * (width - left - 8);
  const y = (value) => height - bottom - (value / most) * (height - bottom - top);
  for (const value of [0, most]) {
    element("line", { x1: left, x2: width - 8, y1: y(value), y2: y(value) }, svg);
    element("text", { x: left - 5, y: y(value) + 4, "text-anchor": "end" }, svg, format(value, unit));
  }
  const path = points.map(([t, value], index) => `${index ? "L" : "M"}${x(t).toFixed(1)} ${y(value).toFixed(1)}`);
  element("path", { d: path.join("") || "M0 0" }, svg);
  const minutes = Math.round((last - first) / 60);
  element("text", { x: left, y: height - 6 }, svg, points.length > 1 ? `${minutes} min ago` : "");
  element("text", { x: width - 8, y: height - 6, "text-anchor": "end" }, svg, "now");
  parent.append(svg);
}

function format(value, unit) {
  if (unit === "ms") return `${value.toFixed(value < 10 ? 1 : 0)} ms`;
  if (unit === "%") return `${Math.round(value)} %`;
  return `${Math.round(value * 10) / 10}`;
}
