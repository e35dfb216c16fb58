
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function themed(layout) {
  const change = {"font.color": colour("--fore")};
  for (const axis of Object.keys(layout).filter((key) => /^[xy]axis/.test(key))) {
    for (const part of ["gridcolor", "linecolor", "zerolinecolor"]) change[`${axis}.${part}`] = colour("--line");
  }
  return change;
}

for (const plot of document.querySelectorAll(".plot")) {
  const figure = page.figures[plot.id.replace("plot-", "")];
  const theme = () => Plotly.relayout(plot, themed(figure.layout));
  Plotly.newPlot(plot, figure.data, figure.layout, {responsive: true, displaylogo: false}).then(theme);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", theme);
}

function compared(one, other) {
  const numbers = [one, other].map((cell) => "value" in cell.dataset ? Number(cell.dataset.value) : null);
  if (numbers[0] !== null && numbers[1] !== null) return numbers[0] - numbers[1];
  if (numbers[0] === null && numbers[1] === null) return one.textContent.localeCompare(other.textContent);
  return numbers[0] === null ? -1 : 1;
}

for (const section of document.querySelectorAll("section.table")) {
  const body = section.querySelector("tbody"), heads = [...section.querySelectorAll("th")];
  heads.forEach((head, column) => head.firstElementChild.addEventListener("click", () => {
    // numbers begin with the largest, texts with A
    const numeric = body.querySelector(`td:nth-child(${column + 1})[data-value]`) !== null;
    const before = head.getAttribute("aria-sort");
    const rising = before ? before === "descending" : !numeric;
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", rising ? "ascending" : "descending");
    const rows = [...body.rows].sort((a, b) => (rising ? 1 : -1) * compared(a.cells[column], b.cells[column]));
    body.append(...rows);
  }));
  const field = section.querySelector("input[type=search]");
  if (field) field.addEventListener("input", () => {
    let shown = 0;
    for (const row of body.rows) {
      row.hidden = !holds([row.textContent], field.value);
      shown += !row.hidden;
    }
    section.querySelector(".count").textContent = `${shown} of ${body.rows.length}`;
  });
}
