// Two kinds of charts: horizontal values with intervals, and scatters with error bars.

const charWidth = 6.6;
const fits = (content, width) => {
  const room = Math.max(3, Math.floor(width / charWidth));
  return content.length <= room ? content : `${content.slice(0, room - 1)}…`;
};

// rows: {name, value, low, high, mark, tip, reason, heading}; a row without a value shows its reason
function intervalChart(figure, rows, { format, axis, zero = true, bar = true, range = null, markName = "" }) {
  const width = Math.max(280, figure.clientWidth);
  const longest = Math.max(...rows.map((row) => row.name.length));
  const left = Math.min(Math.ceil(longest * charWidth) + 12, Math.floor(width * 0.36));
  const room = 62;  // for the value, at the right
  const numbers = rows.flatMap((row) => [row.value, row.low, row.high, row.mark].filter(known));
  if (!numbers.length) {
    figure.innerHTML = `<p class="caption">${escape([...new Set(rows.map((row) => row.reason).filter(known))].join("; ") || "nothing to show")}</p>`;
    return;
  }
  const [low, high] = range ?? spread(numbers, { zero });
  const x = scale(low, high, left, width - room);
  let y = 10;
  const parts = [];
  rows.forEach((row, index) => {
    if (row.heading) {
      parts.push(text(0, y + 14, row.heading, { name: "soft" }));
      y += 22;
    }
    const middle = y + 12;
    parts.push(text(left - 8, middle + 4, fits(row.name, left - 10), { anchor: "end" }));
    parts.push(known(row.value) ? valueRow(row, { x, middle, width, format, bar, index, low, high })
      : point(`${row.name}: ${row.reason ?? "not known"}`,
        text(left + 6, middle + 4, fits(row.reason ?? "not known", width - left - 6), { name: "soft" }), index));
    y += 26;
  });
  const grid = ticks(low, high, width < 500 ? 4 : 7).map((each) =>
    line(x(each), 6, x(each), y, Math.abs(each) < 1e-9 ? "zero" : "axis") +
    text(x(each), y + 15, format(each, true), { anchor: "middle", name: "soft" })).join("");
  const name = text((left + width - room) / 2, y + 33, axis, { anchor: "middle", name: "soft" });
  const note = markName ? text((left + width - room) / 2, y + 50, markName, { anchor: "middle", name: "soft" }) : "";
  figure.innerHTML = svg(width, y + (markName ? 56 : 40), axis, grid + name + note + parts.join(""));
}

function valueRow(row, { x, middle, width, format, bar, index, low, high }) {
  const clip = (value) => Math.min(Math.max(value, low), high);
  const from = x(clip(0)), to = x(clip(row.value));
  const tone = row.tone ?? (row.value < 0 ? "loss" : "");
  const body = bar
    ? `<rect class="bar ${tone}" x="${Math.min(from, to)}" y="${middle - 8}" width="${Math.max(Math.abs(to - from), 1)}" height="16"/>`
    : "";
  const whisker = known(row.low)
    ? line(x(clip(row.low)), middle, x(clip(row.high)), middle, "whisker") +
      (bar ? line(x(clip(row.low)), middle - 5, x(clip(row.low)), middle + 5, "whisker") +
        line(x(clip(row.high)), middle - 5, x(clip(row.high)), middle + 5, "whisker") : "")
    : "";
  const dot = bar ? "" : `<circle class="dot" cx="${to}" cy="${middle}" r="5.5"/>`;
  const mark = known(row.mark) ? line(x(clip(row.mark)), middle - 11, x(clip(row.mark)), middle + 11, "mark") : "";
  const hit = `<rect x="0" y="${middle - 12}" width="${width}" height="24" fill="transparent"/>`;
  const value = text(width - 2, middle + 4, format(row.value), { anchor: "end" });
  return point(row.tip, hit + body + whisker + dot + mark + value, index);
}

// points: {name, x, y, xLow, xHigh, yLow, yHigh, tip}
function scatterChart(figure, points, { xName, yName, labels = true, diagonal = false, format = (value) => signed(value, 1) }) {
  if (!points.length) {
    figure.innerHTML = '<p class="caption">Nothing to show: too few cells.</p>';
    return;
  }
  const width = Math.max(280, figure.clientWidth), height = Math.round(Math.min(width * 0.72, 460));
  const [left, bottom] = [62, 46];
  const ends = (one, low, high) => points.flatMap((each) => [each[one], each[low], each[high]].filter(known));
  const [xLow, xHigh] = spread(ends("x", "xLow", "xHigh"));
  const [yLow, yHigh] = spread(ends("y", "yLow", "yHigh"));
  const x = scale(xLow, xHigh, left, width - 14), y = scale(yLow, yHigh, height - bottom, 12);
  const grid = ticks(xLow, xHigh, width < 420 ? 4 : 6).map((each) =>
    line(x(each), 12, x(each), height - bottom, each === 0 ? "zero" : "axis") +
    text(x(each), height - bottom + 16, format(each), { anchor: "middle", name: "soft" })).join("") +
    ticks(yLow, yHigh, 5).map((each) =>
      line(left, y(each), width - 14, y(each), each === 0 ? "zero" : "axis") +
      text(left - 6, y(each) + 4, signed(each, 1), { anchor: "end", name: "soft" })).join("");
  const names = text((left + width) / 2, height - 8, xName, { anchor: "middle", name: "soft" }) +
    `<text class="soft" text-anchor="middle" transform="translate(12 ${(height - bottom) / 2}) rotate(-90)">${escape(yName)}</text>`;
  const placed = labels ? placeLabels(points.map((each) => ({ x: x(each.x), y: y(each.y), name: each.name })),
    { left, right: width - 4, top: 8, bottom: height - bottom }) : [];
  const bars = points.map((each) =>
    (known(each.xLow) ? line(x(each.xLow), y(each.y), x(each.xHigh), y(each.y), "thin") : "") +
    (known(each.yLow) ? line(x(each.x), y(each.yLow), x(each.x), y(each.yHigh), "thin") : "")).join("");
  const dots = points.map((each, index) =>
    point(each.tip, `<circle cx="${x(each.x)}" cy="${y(each.y)}" r="9" fill="transparent"/>` +
      `<circle class="dot" cx="${x(each.x)}" cy="${y(each.y)}" r="${labels ? 5 : 4}"/>`, index)).join("");
  const texts = placed.map((each) => text(each.x, each.y, each.name, { anchor: each.anchor, name: "halo" })).join("");
  figure.innerHTML = svg(width, height, `${yName} against ${xName}`, grid + names + bars + dots + texts);
}

// Put every label where it covers the fewest labels, dots and edges; one that only fits on others is left to the tooltip
function placeLabels(dots, frame) {
  const boxes = dots.map((dot) => ({ x: dot.x - 6, y: dot.y - 6, width: 12, height: 12 }));
  const overlap = (a, b) => Math.max(0, Math.min(a.x + a.width, b.x + b.width) - Math.max(a.x, b.x)) *
    Math.max(0, Math.min(a.y + a.height, b.y + b.height) - Math.max(a.y, b.y));
  const found = [];
  dots.forEach((dot, own) => {
    const width = dot.name.length * charWidth, height = 13;
    const choices = [[9, -4, "start"], [9, 14, "start"], [-9, -4, "end"], [-9, 14, "end"], [0, -10, "middle"], [0, 20, "middle"], [20, -14, "start"], [-20, -14, "end"], [20, 24, "start"], [-20, 24, "end"]];
    const rated = choices.map(([dx, dy, anchor]) => {
      const shift = { start: 0, middle: -width / 2, end: -width }[anchor];
      const box = { x: dot.x + dx + shift, y: dot.y + dy - 11, width, height };
      const outside = box.x < frame.left || box.x + width > frame.right || box.y < frame.top || box.y + height > frame.bottom;
      const cost = boxes.reduce((sum, other, place) => sum + (place === own ? 0 : overlap(box, other)), outside ? 1e4 : 0);
      return { cost, box, label: { x: dot.x + dx, y: dot.y + dy, anchor, name: dot.name } };
    });
    const best = rated.reduce((one, other) => (other.cost < one.cost ? other : one));
    if (best.cost > (dots.length > 15 ? 5 : 60)) return;
    boxes.push(best.box);
    found.push(best.label);
  });
  return found;
}
