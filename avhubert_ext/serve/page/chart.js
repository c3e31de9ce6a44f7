// The chart: how many words differ at each level of noise. Curves grow as levels are tried.

const HEIGHT = 220; // pixels, like all lengths here
const LABEL = 32; // width of a label
const [LEFT, RIGHT, TOP, BOTTOM] = [36, 96, 12, 28];

// curves: [{ name, kind, rates: [% or undefined for each label] }]; here: number of the level shown.
export function drawChart(labels, curves, here, width) {
  const known = curves.flatMap(({ rates }) => rates.filter((rate) => rate !== undefined));
  const top = Math.max(100, ...known);
  const x = (n) => LEFT + (n / (labels.length - 1)) * (width - LEFT - RIGHT);
  const y = (rate) => TOP + (1 - rate / top) * (HEIGHT - TOP - BOTTOM);
  const svg = element("svg", { width, height: HEIGHT, role: "img" });
  svg.setAttribute("aria-label", summary(labels, curves));

  for (const rate of [0, 50, 100]) {
    svg.append(element("line", {
      class: "grid", x1: LEFT, x2: width - RIGHT, y1: y(rate), y2: y(rate) }));
    svg.append(element("text", { x: LEFT - 6, y: y(rate) + 4, "text-anchor": "end" }, rate));
  }
  const every = Math.ceil(LABEL / (x(1) - x(0)));
  labels.forEach((label, n) => n % every || svg.append(
    element("text", { x: x(n), y: HEIGHT - 8, "text-anchor": "middle" }, label)));
  svg.append(element("line", {
    class: "here", x1: x(here), x2: x(here), y1: TOP, y2: HEIGHT - BOTTOM }));

  const names = [];
  for (const { name, kind, rates } of curves) {
    const points = rates.map((rate, n) => [n, rate]).filter(([, rate]) => rate !== undefined);
    if (!points.length) continue;
    const group = element("g", { class: kind });
    const places = points.map(([n, rate]) => `${x(n)},${y(rate)}`).join(" ");
    group.append(element("polyline", { points: places }));
    points.forEach(([n, rate]) => group.append(
      element("circle", { cx: x(n), cy: y(rate), r: 4 })));
    svg.append(group);
    names.push({ name, kind, at: y(points.at(-1)[1]) + 4 });
  }
  for (const { name, kind, at } of apart(names, 15)) {
    const group = element("g", { class: kind });
    group.append(element("text", { class: "name", x: width - RIGHT + 10, y: at }, name));
    svg.append(group);
  }
  return svg;
}

// Move names down if they overlap, and up again if they leave the chart.
function apart(names, gap) {
  names.sort((a, b) => a.at - b.at);
  names.forEach((name, n) => {
    if (n) name.at = Math.max(name.at, names[n - 1].at + gap);
  });
  const over = names.length ? names.at(-1).at - (HEIGHT - BOTTOM + 4) : 0;
  if (over > 0) names.forEach((name) => { name.at -= over; });
  return names;
}

function summary(labels, curves) {
  const parts = curves.map(({ name, rates }) => {
    const points = rates.map((rate, n) =>
      rate === undefined ? "" : `${labels[n]} ${Math.round(rate)}%`);
    return `${name}: ${points.filter(Boolean).join(", ")}`;
  });
  return `Words that differ. ${parts.join(". ")}`;
}

function element(name, attributes, text) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}
