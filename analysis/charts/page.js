// Draws the page's charts, again when the colour scheme changes. By hand is only what Vega-Lite cannot do:
// arrow keys that walk through the matrix and a line that tells a screen reader about the cell they reach.

const { charts, themes } = JSON.parse(document.getElementById("data").textContent);
const dark = matchMedia("(prefers-color-scheme: dark)");

async function draw() {
  const config = themes[dark.matches ? "dark" : "light"];
  for (const [id, chart] of Object.entries(charts)) {
    const options = {
      actions: false, ast: true, renderer: "svg", config, defaultStyle: false, tooltip: { disableDefaultStyle: true },
      logLevel: 1,  // errors: a layer without rows is none
    };
    const { view } = await vegaEmbed(document.getElementById(id), chart, options);
    if (id === "matrix-chart") walk(document.getElementById(id), view);
  }
  document.documentElement.dataset.drawn = dark.matches ? "dark" : "light";
}

const steps = { ArrowLeft: ["column", -1], ArrowRight: ["column", 1], ArrowUp: ["row", -1], ArrowDown: ["row", 1] };

function walk(figure, view) {
  figure.tabIndex = 0;
  const open = ({ source, target }) => {  // where a page has one for every pair
    if (figure.dataset.pair) location.href = `${figure.dataset.pair}&source=${encodeURIComponent(source[2])}&target=${encodeURIComponent(target.join("-"))}`;
  };
  figure.onclick = ({ target }) => target.__data__?.datum?.source && open(target.__data__.datum);
  const detail = document.getElementById("matrix-detail");
  figure.onkeydown = (event) => {
    if (!(event.key in steps || event.key === "Enter") || event.target !== figure) return;
    event.preventDefault();
    const cells = [...figure.querySelectorAll(".cells_marks > path, .missing_cells_marks > path")].map((each) => each.__data__);
    const at = { row: view.signal("at_row"), column: view.signal("at_column") };
    if (event.key === "Enter") return cells.filter(({ datum }) => datum.row === at.row && datum.column === at.column).forEach(({ datum }) => open(datum));
    const [along, step] = steps[event.key], across = along === "row" ? "column" : "row";
    const ahead = cells.filter(({ datum }) => datum[across] === at[across] && (datum[along] - at[along]) * step > 0);
    ahead.sort((one, other) => (one.datum[along] - other.datum[along]) * step);
    const here = cells.some(({ datum }) => datum.row === at.row && datum.column === at.column);
    const next = here ? ahead[0] : cells[0];
    if (!next) return;
    view.signal("at_row", next.datum.row).signal("at_column", next.datum.column).run();
    detail.textContent = Object.entries(next.tooltip).map(([name, value]) => `${name} ${value}`).join(" · ");
  };
}

dark.addEventListener("change", draw);
draw();
