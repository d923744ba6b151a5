// What each chart shows, and the selects above it.

const regimeOrder = ["all transfer", ...regimeNames];
const splits = { all: "nothing", model: "model", family: "model family", size: "model size", source_task: "trained task",
  target_task: "scored task", source_language: "trained language", target_language: "scored language",
  source_language_family: "trained language family", target_language_family: "scored language family", construction: "how the items were made" };
const measures = {
  mean_pp: { name: "mean delta", axis: "mean delta, pp", format: (value, tick) => signed(value, tick ? 1 : 2) },
  win_rate_true: { name: "truly gained", axis: "share of pairs whose true delta is above 0", format: share },
  harm_rate_true: { name: "truly harmed", axis: `share of pairs whose true delta is ${signed(data.settings.harm_threshold_pp, 1)} pp or lower`, format: share },
  win_rate: { name: "seen to gain, noise included", axis: "share of pairs with observed delta above 0", format: share },
  harm_rate: { name: "seen harmed, noise included", axis: `share of pairs with observed delta of ${signed(data.settings.harm_threshold_pp, 1)} pp or lower`, format: share,
    mark: "harm_rate_by_chance", markName: "orange line: share expected by chance alone" },
};

function regimeTip(row, name) {
  const ends = (key, format) => known(row[`${key}_low`])
    ? `${level} interval ${format(row[`${key}_low`])} to ${format(row[`${key}_high`])}` : "no interval";
  const lines = [`${name}: ${row.n} pairs`];
  if (!row.n) return [...lines, row.reason].join("\n");
  lines.push(`mean delta ${pp(row.mean_pp)}, ${ends("mean_pp", signed)}`);
  if (known(row.win_rate_true)) {
    lines.push(`truly gained ${percent(row.win_rate_true)}, ${ends("win_rate_true", percent)}`);
    lines.push(`truly harmed ${percent(row.harm_rate_true)}, ${ends("harm_rate_true", percent)}`);
  }
  lines.push(`seen to gain, noise included, ${percent(row.win_rate)}, ${ends("win_rate", percent)}`);
  lines.push(`seen harmed, noise included, ${percent(row.harm_rate)}, ${ends("harm_rate", percent)}`);
  if (known(row.harm_rate_by_chance)) lines.push(`seen harmed by chance alone ${percent(row.harm_rate_by_chance)}`);
  lines.push(known(row.harm_rate_significant)
    ? `significant: ${percent(row.win_rate_significant)} gained, ${percent(row.harm_rate_significant)} harmed` : "not tested");
  return lines.join("\n");
}

function drawRegimes() {
  const by = byId("r-by").value, key = byId("r-measure").value, measure = measures[key];
  byId("r-regime-label").hidden = by === "all";
  const chosenRegime = byId("r-regime").value;
  const rows = data.regimes.filter((row) => row.by === by && (by === "all" || row.regime === chosenRegime));
  const list = rows.map((row) => {
    const name = by === "all" ? row.regime : label(row.group);
    return { name, value: row[key], low: row[`${key}_low`], high: row[`${key}_high`], mark: measure.mark && row[measure.mark],
      tone: key.startsWith("harm_rate") ? "plain" : undefined, reason: row.reason, tip: regimeTip(row, by === "all" ? row.regime : `${name}, ${row.regime}`) };
  });
  intervalChart(byId("regime-chart"), list.length ? list : [{ name: "-", reason: "no pairs here" }],
    { ...measure, markName: list.some((row) => known(row.mark)) ? measure.markName : "" });
}

const roleChoices = [
  ["language|MT-CL", "languages, same task (MT-CL)"], ["language|CT-CL", "languages, other task (CT-CL)"],
  ["language_family|MT-CL", "language families (MT-CL)"], ["task|CT-ML", "tasks, same language (CT-ML)"],
  ["task|CT-CL", "tasks, other language (CT-CL)"], ["cell|all transfer", "cells, all transfer"],
];

function rolePoints(choice) {
  const [unit, regime] = choice.split("|");
  const of = (role) => new Map(data.roles.filter((row) => row.unit === unit && row.regime === regime && row.role === role).map((row) => [row.name, row]));
  const donors = of("donor"), recipients = of("recipient");
  return [...donors.keys()].filter((name) => recipients.has(name)).map((name) => rolePoint(name, donors.get(name), recipients.get(name)));
}

function roleEnds(row) {
  if (known(row.score_pp_low)) return [row.score_pp_low, row.score_pp_high, `${level} interval`];
  if (known(row.se_pp)) return [row.score_pp - row.se_pp, row.score_pp + row.se_pp, "\u00b1 standard error"];
  return [null, null, "no interval"];
}

function rolePoint(name, donor, recipient) {
  const [xLow, xHigh, kind] = roleEnds(donor), [yLow, yHigh] = roleEnds(recipient);
  const side = (word, row, low, high) => `${word} ${pp(row.score_pp)}` +
    (known(low) ? ` (${kind} ${signed(low)} to ${signed(high)})` : " (no interval)") +
    (known(row.rank_low) ? `, rank ${row.rank_low} to ${row.rank_high}` : "") + (row.label ? `, ${row.label}` : "");
  return { name: label(name), x: donor.score_pp, y: recipient.score_pp, xLow, xHigh, yLow, yHigh, donor, recipient,
    tip: [label(name), side("donor", donor, xLow, xHigh), side("recipient", recipient, yLow, yHigh), `${donor.n} and ${recipient.n} pairs`].join("\n") };
}

function drawRoles() {
  for (const side of ["left", "right"]) {
    const choice = byId(`role-${side}`).value;
    scatterChart(byId(`role-chart-${side}`), rolePoints(choice), { xName: "donor score, pp", yName: "recipient score, pp", labels: true });
  }
  byId("role-table").innerHTML = ["left", "right"].map((side) => roleTable(byId(`role-${side}`).value)).join("");
}

function roleTable(choice) {
  const name = roleChoices.find(([value]) => value === choice)[1];
  const cells = (row) => {
    const [low, high] = roleEnds(row);
    const ranks = known(row.rank_low) ? `${row.rank} (${row.rank_low}\u2013${row.rank_high})` : known(row.rank) ? row.rank : "-";
    return `<td>${signed(row.score_pp)}</td><td>${known(low) ? `${signed(low)} to ${signed(high)}` : "-"}</td><td>${ranks}</td>`;
  };
  const rows = rolePoints(choice).map((each) => `<tr><th scope="row">${escape(each.name)}</th>${cells(each.donor)}${cells(each.recipient)}</tr>`);
  return `<table class="numbers"><thead><tr><th scope="col">${escape(name)}</th><th scope="col">donor, pp</th><th scope="col">interval</th><th scope="col">rank</th>` +
    `<th scope="col">recipient, pp</th><th scope="col">interval</th><th scope="col">rank</th></tr></thead><tbody>${rows.join("")}</tbody></table>`;
}

function drawVariance() {
  const regime = byId("v-regime").value;
  const names = { crossed: "crossed", nested: "nested, as published", "crossed, task and language": "crossed, split into task and language" };
  let last = "";
  const rows = ["crossed", "nested", "crossed, task and language"].flatMap((fit) =>
    data.variance.filter((row) => row.fit === fit && row.regime === regime)).map((row) => {
    const heading = row.fit === last ? "" : names[row.fit];
    last = row.fit;
    const tip = [`${row.component}, ${row.fit}, ${regime}`, known(row.share)
      ? `share ${percent(row.share)}` + (known(row.share_low) ? `, ${level} interval ${percent(row.share_low)} to ${percent(row.share_high)}` : ", no interval") : "",
    known(row.variance_pp2) ? `variance ${row.variance_pp2.toFixed(3)} pp\u00b2, ${row.n_levels} levels` : "", row.reason ?? ""].filter(Boolean).join("\n");
    return { name: row.component, value: row.share, low: row.share_low, high: row.share_high, heading, reason: row.reason, tip,
      tone: row.component === "residual" ? "plain" : undefined };
  });
  intervalChart(byId("variance-chart"), rows, { format: share, axis: "share of the variance of the deltas", range: [0, 1] });
}

function drawAgreement() {
  let last = "";
  const rows = data.consistency.map((row) => {
    const heading = row.unit === last ? "" : `between ${{ model: "models", family: "model families", size: "model sizes" }[row.unit]}`;
    last = row.unit;
    const tip = [`${row.regime}, ${row.unit}`, known(row.median)
      ? `median ${row.median.toFixed(2)}, quartiles ${row.lower_quartile.toFixed(2)} to ${row.upper_quartile.toFixed(2)}` : row.reason,
    `${row.n_sources} sources, ${row.n_sources_undefined} without an index`].join("\n");
    return { name: row.regime, value: row.median, low: row.lower_quartile, high: row.upper_quartile, heading, reason: row.reason, tip };
  });
  intervalChart(byId("agreement-chart"), rows, { format: (value, tick) => signed(value, tick ? 1 : 2), axis: "Kendall's tau-b", bar: false, range: [-1, 1] });
}

function drawDistance() {
  const features = byId("d-features").value;
  const found = data.distance.filter((row) => row.features === features);
  byId("distance-words").textContent = found.map((row) => known(row.correlation)
    ? `${label(row.method)} ${signed(row.correlation)}: Mantel p ${row.mantel_p.toPrecision(2)}, naive p ${row.naive_p.toPrecision(2)} (${row.n_pairs} pairs, ${row.n_languages} languages)`
    : `${row.method}: ${row.reason}`).join("; ") + ". The naive p takes pairs as independent, which they are not.";
  const points = data.distance_pairs.filter((row) => known(row[`${features}_distance`])).map((row) => {
    const distance = row[`${features}_distance`];
    return { name: "", x: distance, y: row.mean_pp, tip: `${row.source_language} \u2192 ${row.target_language}\ndistance ${distance.toFixed(3)}\nmean delta ${pp(row.mean_pp)} (${row.n} pairs)` };
  });
  scatterChart(byId("distance-chart"), points, { xName: `${label(features.replace("_knn", ""))} distance`, yName: "mean delta, pp", labels: false, format: (value) => value.toFixed(2) });
}

const charts = [drawRegimes, drawRoles, drawVariance, drawAgreement, drawDistance];

function fillSelects() {
  const present = (by) => data.regimes.some((row) => row.by === by);
  fill(byId("r-measure"), Object.entries(measures).map(([key, each]) => [key, each.name]));
  fill(byId("r-by"), Object.entries(splits).filter(([by]) => present(by)));
  fill(byId("r-regime"), regimeOrder.map((each) => [each, each]));
  const best = (wanted, choices, hasData) => [wanted, ...choices].find(hasData) ?? wanted;
  const hasPoints = (choice) => rolePoints(choice).length > 1;
  const hasShares = (regime) => data.variance.some((row) => row.regime === regime && known(row.share));
  const choices = roleChoices.map(([value]) => value);
  fill(byId("role-left"), roleChoices, best("language|MT-CL", [...choices].reverse(), hasPoints));
  fill(byId("role-right"), roleChoices, best("task|CT-ML", choices, hasPoints));
  fill(byId("v-regime"), regimeOrder.map((each) => [each, each]), best("MT-CL", regimeOrder, hasShares));
  fill(byId("d-features"), [...new Set(data.distance.map((row) => row.features))].map((each) => [each, label(each.replace("_knn", ""))]));
}

function start() {
  startMatrix();
  fillSelects();
  const drawn = { "r-by": drawRegimes, "r-measure": drawRegimes, "r-regime": drawRegimes, "role-left": drawRoles, "role-right": drawRoles,
    "v-regime": drawVariance, "d-features": drawDistance };
  for (const [id, draw] of Object.entries(drawn)) byId(id).addEventListener("change", draw);
  document.querySelectorAll(".chart").forEach(tipsOf);
  document.addEventListener("keydown", (event) => event.key === "Escape" && hideTip());
  window.addEventListener("scroll", hideTip, { passive: true });
  const drawAll = () => [drawMatrix, ...charts].forEach((draw) => draw());
  drawAll();
  let width = document.documentElement.clientWidth;
  window.addEventListener("resize", () => {
    if (document.documentElement.clientWidth === width) return;
    width = document.documentElement.clientWidth;
    drawAll();
  });
  const printing = (width, smallest) => {
    document.querySelector("main").style.width = width;
    smallestCell = smallest;
    drawAll();
  };
  window.addEventListener("beforeprint", () => printing("690px", 10));
  window.addEventListener("afterprint", () => printing("", 14));
}
