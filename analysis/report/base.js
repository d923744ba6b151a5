// Numbers as text, the tooltip, keys that move through points, selects.

const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const known = (value) => value !== null && value !== undefined;
const escapes = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;" };
const escape = (text) => String(text).replace(/[&<>"']/g, (each) => escapes[each]);
const signed = (value, digits = 2) => {
  const text = Math.abs(value).toFixed(digits);
  return (Number(text) === 0 ? "" : value > 0 ? "+" : "\u2212") + text;
};
const pp = (value) => `${signed(value)}\u00a0pp`;
const percent = (value) => `${(100 * value).toFixed(1)}%`;
const share = (value) => `${(100 * value).toFixed(0)}%`;
const counted = (number, noun) => `${number} ${noun}${number === 1 ? "" : "s"}`;
const label = (name) => name.replaceAll("_", " ");
const level = `${Number((100 * data.settings.confidence).toPrecision(6))}%`;

function fill(select, options, chosen) {
  select.innerHTML = options
    .map(([value, text]) => `<option value="${escape(value)}">${escape(text)}</option>`)
    .join("");
  if (known(chosen)) select.value = chosen;
}

// one tooltip for everything that carries data-tip or, in the matrix, a place
const tip = byId("tip");

function showTip(text, element) {
  tip.textContent = text;
  tip.hidden = false;
  const box = element.getBoundingClientRect();
  const width = tip.offsetWidth, height = tip.offsetHeight;
  const left = Math.min(Math.max(box.left + box.width / 2 - width / 2, 6), document.documentElement.clientWidth - width - 6);
  const above = box.top - height - 8;
  tip.style.left = `${left}px`;
  tip.style.top = `${above > 4 ? above : Math.min(box.bottom + 8, window.innerHeight - height - 4)}px`;
}

function hideTip() {
  tip.hidden = true;
}

function tipsOf(container) {
  const show = (event) => {
    const point = event.target.closest("[data-tip]");
    if (point) showTip(point.dataset.tip, point);
  };
  container.addEventListener("mouseover", show);
  container.addEventListener("focusin", show);
  container.addEventListener("mouseout", hideTip);
  container.addEventListener("focusout", hideTip);
  container.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    const points = [...container.querySelectorAll("[data-tip]")];
    const place = points.indexOf(event.target);
    if (!step || place < 0) return;
    event.preventDefault();
    const next = points[(place + step + points.length) % points.length];
    event.target.setAttribute("tabindex", "-1");
    next.setAttribute("tabindex", "0");
    next.focus();
  });
}

// SVG as text: every point of a chart is focusable, the first by Tab, the others by arrow keys
const svg = (width, height, title, inside) =>
  `<svg viewBox="0 0 ${width} ${height}" role="group" aria-label="${escape(title)}">${inside}</svg>`;
const line = (x1, y1, x2, y2, name) => `<line x1="${x1}" y1="${y1}" x2="${x2}" y2="${y2}" class="${name}"/>`;
const text = (x, y, content, { anchor = "start", name = "" } = {}) =>
  `<text x="${x}" y="${y}" text-anchor="${anchor}" class="${name}">${escape(content)}</text>`;
const point = (content, inside, index) =>
  `<g data-tip="${escape(content)}" role="img" aria-label="${escape(content)}" tabindex="${index === 0 ? 0 : -1}">${inside}</g>`;

function ticks(low, high, wanted) {
  const rough = (high - low) / wanted;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((each) => each * power).find((each) => each >= rough * 0.999);
  const found = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + step * 1e-9; k += 1) found.push(Number((k * step).toPrecision(12)));
  return found;
}

function scale(low, high, from, to) {
  return (value) => from + ((value - low) / (high - low)) * (to - from);
}

function spread(values, { zero = false, pad = 0.06 } = {}) {
  const all = zero ? [0, ...values] : values;
  let low = Math.min(...all), high = Math.max(...all);
  if (high - low < 1e-9) { low -= 0.5; high += 0.5; }
  const extra = (high - low) * pad;
  return [zero && low === 0 ? 0 : low - extra, zero && high === 0 ? 0 : high + extra];
}
