// The last hour of the gateway, as lines.

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
  element("path", { d: path.length === 1 ? `${path[0]}h.1` : path.join("") || "M0 0" }, svg);
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
