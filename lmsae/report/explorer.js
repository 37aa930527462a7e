// Filters of the table, and the interactive figures. All text goes into the page by textContent or as data of Vega.
"use strict";
const said = JSON.parse(document.getElementById("explorer-data").textContent);
const pages = new Set(JSON.parse(document.getElementById("pages").textContent));
const hrefOf = row => pages.has(row) ? `rows/${encodeURIComponent(row)}/page/index.html` : `#row-${encodeURIComponent(row)}`;
for (const values of Object.values(said.data)) for (const value of values) value.href = hrefOf(value.row);

const make = (kind, properties = {}, ...children) => {
  const element = Object.assign(document.createElement(kind), properties);
  element.append(...children);
  return element;
};
const table = document.querySelector("#rows-table"), bar = document.getElementById("filters");
const lines = [...table.tBodies[0].rows], views = [];
const textOf = (line, column) => line.cells[column].textContent.trim();
const nameOf = line => line.cells[0].dataset.value;
const where = new Map(said.data.rows.map(row => [row.row, row.where]));
const places = [...new Set(where.values())];
const chosen = new Map();
let words = "", place = places[0];

function show() {
  const wanted = words.toLowerCase().split(/\s+/).filter(Boolean);
  const left = new Set();
  for (const line of lines) {
    const name = nameOf(line), low = name.toLowerCase();
    const is = wanted.every(word => low.includes(word)) && [...chosen].every(([column, value]) => textOf(line, column) === value);
    line.hidden = !is;
    if (is) left.add(name);
  }
  count.textContent = left.size === lines.length ? `${lines.length} rows` : `${left.size} of ${lines.length} rows`;
  for (const { view, data } of views) {
    view.data(data, said.data[data].filter(value => left.has(value.row) && where.get(value.row) === place)).runAsync();
  }
}

const count = make("output");
const search = make("input", { type: "search", placeholder: "name contains …", ariaLabel: "Filter by name" });
search.addEventListener("input", () => { words = search.value; show(); });
bar.append(search);
[...table.tHead.rows[0].cells].forEach((heading, column) => {
  if (column === 0 || heading.classList.contains("n")) return;
  const values = [...new Set(lines.map(line => textOf(line, column)))];
  if (values.length < 2 || values.length > 60) return;
  values.sort((a, b) => a.localeCompare(b, undefined, { numeric: true }));
  const select = make("select", {}, make("option", { value: "", textContent: "all" }));
  values.forEach((value, i) => select.append(make("option", { value: String(i + 1), textContent: value || "—" })));
  select.addEventListener("change", () => {
    if (select.value) chosen.set(column, values[Number(select.value) - 1]); else chosen.delete(column);
    show();
  });
  bar.append(make("label", {}, `${heading.textContent.trim()} `, select));
});
bar.append(count);
bar.hidden = false;
show();

const style = getComputedStyle(document.documentElement), color = name => style.getPropertyValue(name).trim();
const dark = matchMedia("(prefers-color-scheme: dark)").matches;
const config = {
  background: "transparent", font: getComputedStyle(document.body).fontFamily, view: { stroke: null },
  axis: { labelColor: color("--ink"), titleColor: color("--soft"), gridColor: color("--line"), domainColor: color("--line"),
    ticks: false, titleFontWeight: "normal", labelFontSize: 11, titleFontSize: 11.5 },
  title: { color: color("--ink"), anchor: "start", fontSize: 12.5 },
};
function legend() {
  const entries = said.colors.map(([name, shade]) => {
    const swatch = make("i");
    swatch.style.background = shade;
    return make("span", {}, swatch, name);
  });
  const element = make("p", { className: "swatches" }, ...entries);
  if (places.length > 1) {
    const select = make("select", {}, ...places.map(name => make("option", { value: name, textContent: name })));
    select.value = place;
    select.addEventListener("change", () => {
      place = select.value;
      for (const other of document.querySelectorAll(".swatches select")) other.value = place;
      show();
    });
    element.prepend(make("label", {}, "at ", select));
  }
  return element;
}
async function draw(kind) {
  const home = document.getElementById(`explore-${kind}`), grid = make("div", { className: "charts" });
  home.append(legend(), grid);
  home.hidden = false;
  try {
    const data = kind === "pareto" ? "rows" : "curves";
    // All cells first: a figure is as wide as its cell is when it is drawn.
    const cells = said.figures[kind].map(() => make("div"));
    grid.append(...cells);
    for (const [i, figure] of said.figures[kind].entries()) {
      const { view } = await vegaEmbed(cells[i], { ...figure, datasets: { [data]: said.data[data] } }, {
        // Errors only: a figure that no row is left for has no range, which is no reason to warn.
        actions: false, logLevel: 1, renderer: "svg", config, tooltip: { theme: dark ? "dark" : "light" },
      });
      views.push({ view, data });
    }
  } catch (error) {
    home.hidden = true;
    throw error;
  }
  for (const drawn of document.querySelectorAll(`.drawn-${kind}`)) drawn.hidden = true;
}
(async () => { for (const kind of Object.keys(said.figures)) await draw(kind); show(); document.body.dataset.drawn = "yes"; })();
