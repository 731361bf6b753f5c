"use strict";
// Tables: a button in each heading sorts, a field filters; both say what they did.
for (const table of document.querySelectorAll("table")) {
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, index) => {
    head.querySelector("button").addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((one) => one.setAttribute("aria-sort", "none"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const key = (row) => {
        const cell = row.cells[index];
        return cell.dataset.value === undefined ? cell.textContent : Number(cell.dataset.value);
      };
      const order = (a, b) => {
        if (a === "" || b === "") return (a === "") - (b === ""); // empty cells stay last
        const both = typeof a === "number" && typeof b === "number";
        const sign = both ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });
        return down ? -sign : sign;
      };
      const rows = [...body.rows].map((row) => [key(row), row]);
      rows.sort((a, b) => order(a[0], b[0]));
      body.append(...rows.map((pair) => pair[1]));
    });
  });
}
for (const field of document.querySelectorAll("input[data-table]")) {
  const rows = [...document.getElementById(field.dataset.table).tBodies[0].rows];
  const said = field.parentElement.querySelector("output");
  field.addEventListener("input", () => {
    const words = field.value.toLowerCase().split(/\s+/);
    let shown = 0;
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
      shown += row.hidden ? 0 : 1;
    }
    said.textContent = `${shown} of ${rows.length} rows`;
  });
}

// Charts, in the colours of the page, drawn again when the reader changes between light and dark.
const charts = JSON.parse(document.getElementById("charts").textContent);
let drawn = [];
function draw() {
  drawn.forEach((chart) => chart.destroy());
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(name).trim();
  const points = ["circle", "rect", "triangle", "rectRot", "star", "cross"];
  const axis = (title, ticks) => ({
    title: { display: true, text: title, color: colour("--text") },
    ticks: { color: colour("--text"), autoSkip: true, maxRotation: 60, ...ticks },
    grid: { color: colour("--line") },
  });
  const shortened = {
    callback(value) { // the end of a long name tells layers apart
      const text = this.getLabelForValue(value);
      return text.length > 22 ? "…" + text.slice(-21) : text;
    },
  };
  drawn = charts.map((chart, number) => new Chart(document.getElementById(`chart-${number}`), {
    type: chart.kind,
    data: {
      labels: chart.labels,
      datasets: chart.series.map((one, index) => ({
        label: one.name,
        data: one.values,
        borderColor: colour(`--c${index % 6}`),
        backgroundColor: colour(`--c${index % 6}`),
        borderDash: [[], [6, 3], [2, 3]][(index + Math.floor(index / 6)) % 3],
        borderWidth: chart.kind === "line" ? 2 : 0,
        pointStyle: points[index % 6],
        pointRadius: chart.labels.length > 60 ? 1.5 : 3,
      })),
    },
    options: {
      animation: false,
      responsive: true,
      maintainAspectRatio: false,
      interaction: { mode: "index", intersect: false },
      scales: { x: axis(chart.x, shortened), y: axis(chart.y, {}) },
      plugins: {
        legend: {
          display: chart.series.length > 1,
          labels: { color: colour("--text"), usePointStyle: chart.kind === "line", boxWidth: 8, boxHeight: 8 },
        },
      },
    },
  }));
}
if (charts.length) {
  draw();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
}
