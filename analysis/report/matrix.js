// The transfer matrix: a table of cells that filters, explains itself and is walked through by arrow keys.

const { sources, targets, views, reasons, limit_pp: limit } = data.matrix;
const regimeNames = ["MT-ML", "MT-CL", "CT-ML", "CT-CL"];
// share of the way to the full colour from which white (light scheme) or black (dark scheme) text reads better
const deepLight = 0.795, deepDark = 0.55;
const numberedFrom = 40;
let chosen = null;
let smallestCell = 14;  // less on paper, which cannot scroll

function regimeOf(source, target) {
  return (source[0] === target[0] ? "MT" : "CT") + (source[1] === target[1] ? "-ML" : "-CL");
}

function filters() {
  const value = (id) => byId(id).value;
  return {
    view: views[Number(value("f-model"))],
    regime: value("f-regime"),
    sourceTask: value("f-source-task"),
    sourceLanguage: value("f-source-language"),
    targetTask: value("f-target-task"),
    targetLanguage: value("f-target-language"),
    order: value("f-order"),
    significant: byId("f-significant").checked,
  };
}

function chosenCells(cells, task, language, order) {
  const kept = cells.map((cell, place) => ({ cell, place })).filter(({ cell }) =>
    (!task || cell[0] === task) && (!language || cell[1] === language));
  const [outer, inner] = order === "task" ? [0, 1] : [1, 0];
  const compare = (one, other) => (one < other ? -1 : one > other ? 1 : 0);
  kept.sort((a, b) => compare(a.cell[outer], b.cell[outer]) || compare(a.cell[inner], b.cell[inner]));
  return kept.map(({ cell, place }, index) => ({
    place, cell, outer: label(cell[outer]), inner: label(cell[inner]),
    starts: index === 0 || kept[index - 1].cell[outer] !== cell[outer],
    size: kept.filter((each) => each.cell[outer] === cell[outer]).length,
  }));
}

function wanted(regime, source, target) {
  const found = regimeOf(source, target);
  return regime === "" || regime === found || (regime === "transfer" && found !== "MT-ML");
}

function isSignificant(view, place) {
  if (view.significant) return view.significant[place] === 1;
  const hits = Math.max(view.n_gain[place] ?? 0, view.n_loss[place] ?? 0);
  return view.n_tested[place] > 0 && hits > view.n_tested[place] / 2;
}

function explain(view, row, column) {
  const source = sources[row], target = targets[column], place = row * targets.length + column;
  const lines = [`trained on ${source.join("-")}, scored on ${target.join("-")} (${regimeOf(source, target)}), ${view.name}`];
  if (known(view.reason[place])) return [...lines, `not scored: ${reasons[view.reason[place]]}`].join("\n");
  const delta = view.delta_pp[place], half = view.half_pp[place], base = view.base_score[place];
  const mean = Boolean(view.models);
  lines.push(`${mean ? "mean delta" : "delta"} ${pp(delta)}, ` + (known(half)
    ? `${level} interval ${signed(delta - half)} to ${signed(delta + half)}`
    : mean ? "no interval: one model, or all alike" : "no interval: no standard error, or no answer changed"));
  if (known(base)) lines.push(`base score ${base.toFixed(3)}, adapter ${(base + delta / 100).toFixed(3)}`);
  const items = known(view.n_items[place]) ? counted(view.n_items[place], "question") : "questions not recorded";
  lines.push(`n: ${items}, ` + (mean ? counted(view.models[place], "model") : counted(view.n_seeds[place] ?? 1, "seed")));
  lines.push(significance(view, place));
  return lines.join("\n");
}

function significance(view, place) {
  if (view.significant) {
    const flag = view.significant[place];
    if (!known(flag)) return "not tested: no standard error";
    return `${flag ? "significant" : "not significant"} (q = ${view.q_value[place].toFixed(3)})`;
  }
  if (!view.n_tested[place]) return "not tested: no standard errors";
  return `significant alone in ${view.n_gain[place] + view.n_loss[place]} of ${view.n_tested[place]} models` +
    ` (${view.n_gain[place]} gain, ${view.n_loss[place]} loss)`;
}

function cellHtml(state, row, column, numbered) {
  const { view } = state, place = row.place * targets.length + column.place;
  const gap = column.starts ? " gap" : "";
  const delta = view.delta_pp[place], missing = known(view.reason[place]);
  const hidden = !wanted(state.regime, row.cell, column.cell) || (state.significant && !missing && !isSignificant(view, place));
  if (hidden) return `<td class="cell off${gap}"></td>`;
  const key = `data-row="${row.place}" data-column="${column.place}" tabindex="-1"`;
  if (missing) return `<td class="cell missing${gap}" ${key} aria-label="not scored"></td>`;
  const t = Math.min(Math.abs(delta) / limit, 1);
  const names = ["cell", delta > 0 ? "gain" : delta < 0 ? "loss" : "zero"];
  if (t > deepLight) names.push("deep-light");
  if (t > deepDark) names.push("deep-dark");
  if (isSignificant(view, place)) names.push("significant");
  const shown = signed(delta, 1);
  return `<td class="${names.join(" ")}${gap}" ${key} style="--t:${t.toFixed(3)}" aria-label="${shown} pp">${numbered ? shown : ""}</td>`;
}

function cellWidth(n, groupSize) {
  const room = byId("matrix-scroll").clientWidth - (groupSize >= 4 ? 66 : 150);
  const largest = groupSize === 1 ? 88 : 72;
  return Math.max(smallestCell, Math.min(largest, Math.floor(room / Math.max(n, 1)) - 1));
}

function drawMatrix() {
  const state = filters();
  const rows = chosenCells(sources, state.sourceTask, state.sourceLanguage, state.order);
  const columns = chosenCells(targets, state.targetTask, state.targetLanguage, state.order);
  const tall = Math.max(...rows.map((row) => row.size)) >= 4;
  const width = cellWidth(columns.length, tall ? 4 : Math.min(...columns.map((each) => each.size)));
  const numbered = width >= numberedFrom;
  const table = byId("matrix-table");
  table.className = (numbered ? "numbered" : "") + (width < 14 ? " finest" : width < 20 ? " fine" : "");
  table.style.setProperty("--cell", `${width}px`);
  table.style.setProperty("--row", `${numbered ? 32 : width}px`);
  const group = (each, along, tag) =>
    each.starts ? `<th class="group gap${tag}" scope="${along}group" ${along}span="${each.size}">${escape(each.outer)}</th>` : "";
  const head = `<tr><td colspan="2"></td>${columns.map((each) => group(each, "col", "")).join("")}</tr>` +
    `<tr><th colspan="2" class="corner">${tall ? "↓ trained<br>→ scored" : "trained on ↓ scored on →"}</th>` +
    columns.map((each) => `<th class="leaf${each.starts ? " gap" : ""}" scope="col">${escape(each.inner)}</th>`).join("") + "</tr>";
  const body = rows.map((row) =>
    `<tr class="${row.starts ? "gap" : ""}">${group(row, "row", row.size >= 4 ? " tall" : "")}<th class="leaf" scope="row">${escape(row.inner)}</th>` +
    columns.map((column) => cellHtml(state, row, column, numbered)).join("") + "</tr>").join("");
  table.innerHTML = `<thead>${head}</thead><tbody>${body}</tbody>`;
  const first = table.querySelector("td[data-row]");
  if (first) first.tabIndex = 0;
  describe(state, table);
  forget();
}

function describe(state, table) {
  const shown = table.querySelectorAll("td[data-row]").length;
  const missing = table.querySelectorAll("td.missing").length;
  const significant = table.querySelectorAll("td.significant").length;
  const parts = [["trained on task", state.sourceTask], ["trained on language", state.sourceLanguage],
    ["scored on task", state.targetTask], ["scored on language", state.targetLanguage]];
  const narrowed = parts.filter(([, value]) => value).map(([name, value]) => `, ${name} ${label(value)}`).join("");
  const regime = { "": "all regimes", transfer: "all transfer (without MT-ML)" }[state.regime] ?? state.regime;
  byId("matrix-caption").textContent = `${state.view.name}, ${regime}${narrowed}${state.significant ? ", significant only" : ""}: ` +
    `${shown} cells, ${significant} significant, ${missing} not scored.`;
}

function drawLegend() {
  const several = views.length > 1 ? " (mean of models: in more than half of them)" : "";
  byId("legend").innerHTML =
    `<span>\u2212${limit} pp or less <i class="ramp"></i> +${limit} pp or more</span>` +
    `<span><i class="swatch significant"></i> significant${several}</span>` +
    '<span><i class="swatch missing"></i> not scored</span><span><i class="swatch"></i> hidden by a filter</span>';
}

function forget() {
  chosen = null;
  hideTip();
  byId("matrix-detail").textContent = "No cell chosen.";
}

function choose(cell) {
  const content = explain(filters().view, Number(cell.dataset.row), Number(cell.dataset.column));
  if (chosen) chosen.classList.remove("chosen");
  chosen = cell;
  cell.classList.add("chosen");
  byId("matrix-detail").textContent = content;
  showTip(content, cell);
}

function step(cell, key) {
  const across = { ArrowLeft: -1, ArrowRight: 1 }[key], down = { ArrowUp: -1, ArrowDown: 1 }[key];
  const place = (each) => [...each.parentElement.querySelectorAll("td.cell")].indexOf(each);
  let next = cell;
  do {
    if (across) {
      next = across > 0 ? next.nextElementSibling : next.previousElementSibling;
    } else if (down) {
      const row = down > 0 ? next.parentElement.nextElementSibling : next.parentElement.previousElementSibling;
      next = row && row.querySelectorAll("td.cell")[place(next)];
    } else if (key === "Home" || key === "End") {
      const all = cell.parentElement.querySelectorAll("td[data-row]");
      return all[key === "Home" ? 0 : all.length - 1];
    } else {
      return null;
    }
  } while (next && !next.matches("td[data-row]") && next.matches("td"));
  return next && next.matches("td[data-row]") ? next : null;
}

function startMatrix() {
  const names = (cells, place) => [["", "all"], ...[...new Set(cells.map((cell) => cell[place]))].map((each) => [each, label(each)])];
  fill(byId("f-model"), views.map((view, place) => [place, view.name]));
  fill(byId("f-regime"), [["", "all"], ["transfer", "all transfer"], ...regimeNames.map((each) => [each, each])]);
  fill(byId("f-source-task"), names(sources, 0));
  fill(byId("f-source-language"), names(sources, 1));
  fill(byId("f-target-task"), names(targets, 0));
  fill(byId("f-target-language"), names(targets, 1));
  const table = byId("matrix-table");
  const pick = (event) => {
    const cell = event.target.closest("td[data-row]");
    if (cell) choose(cell);
  };
  table.addEventListener("mouseover", pick);
  table.addEventListener("focusin", pick);
  table.addEventListener("click", (event) => event.target.closest("td[data-row]")?.focus());
  table.addEventListener("mouseleave", hideTip);
  table.addEventListener("focusout", hideTip);
  table.addEventListener("keydown", (event) => {
    const cell = event.target.closest("td[data-row]");
    const next = cell && step(cell, event.key);
    if (!next) return;
    event.preventDefault();
    cell.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  });
  byId("filters").addEventListener("change", drawMatrix);
  byId("filters").addEventListener("reset", () => setTimeout(drawMatrix));
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  drawLegend();
}
