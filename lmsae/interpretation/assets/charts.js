// Charts: bars in SVG. Each bar says in words what it shows.

function drawn(name, attributes, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

// Bars of heights from 0 to 1 with their words, side by side. The chart is as wide as its place.
function bars(heights, words, label, height = 90) {
  const width = 320, step = width / heights.length, gap = Math.min(1, step / 4);
  const chart = drawn("svg", {
    viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", role: "img", "aria-label": label, class: "bars",
  });
  chart.style.height = `${height}px`;
  heights.forEach((share, number) => {
    const size = share ? Math.max(1.5, share * (height - 2)) : 0;
    const bar = drawn("g", {}, drawn("title", {}, words[number]));
    bar.append(
      drawn("rect", { x: number * step, y: 0, width: step, height, class: "ground" }),
      drawn("rect", { x: number * step + gap / 2, y: height - size, width: step - gap, height: size, class: "bar" }),
    );
    chart.append(bar);
  });
  return chart;
}

// The words below a chart, in equal steps from its left to its right end.
function axis(...words) {
  return element("div", { class: "axis", "aria-hidden": "true" }, ...words.map((word, number) => {
    const made = element("span", {}, word), last = words.length - 1;
    made.style.left = `${100 * number / last}%`;
    made.style.transform = `translateX(${number === 0 ? 0 : number === last ? -100 : -50}%)`;
    return made;
  }));
}

// A bar that lies behind a number of a table.
function meter(share, kind = "") {
  const made = element("span", { class: `meter ${kind}`, "aria-hidden": "true" });
  made.style.setProperty("--share", Math.max(0, Math.min(1, share)));
  return made;
}
