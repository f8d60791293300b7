// Names the values under the pointer, or at the arrow keys' place, below each chart.
function watchChart(svg) {
  const chart = JSON.parse(svg.dataset.chart), [left, top, right, bottom] = chart.box, [low, high] = chart.x;
  const places = [...new Set(chart.lines.flatMap(([, points]) => points.map(([x]) => x)))].sort((a, b) => a - b);
  const line = document.createElementNS("http://www.w3.org/2000/svg", "path");
  const output = svg.closest("figure").querySelector("output");
  line.setAttribute("class", "pointer");
  let at = places.length - 1;
  const nearest = (values, x, key) => values.reduce((a, b) => (Math.abs(key(b) - x) < Math.abs(key(a) - x) ? b : a));
  const show = () => {
    const x = places[at], px = left + ((x - low) / (high - low)) * (right - left);
    line.setAttribute("d", `M${px} ${top}V${bottom}`);
    svg.append(line);
    svg.dataset.at = x;
    output.value = `${chart.label} ${x.toLocaleString("en")}: ` + chart.lines.map(([name, points]) => {
      const [step, y] = nearest(points, x, (point) => point[0]);
      // A line that was thinned has no point at every step.
      return (Math.abs(step - x) / (high - low)) * (right - left) <= 5 ? `${name} ${y.toLocaleString("en", { maximumSignificantDigits: 4 })}` : "";
    }).filter(Boolean).join(", ");
  };
  const hide = () => { line.remove(); output.value = ""; };
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect(), scale = svg.viewBox.baseVal.width / box.width;
    const x = low + (((event.clientX - box.left) * scale - left) / (right - left)) * (high - low);
    at = places.indexOf(nearest(places, x, (place) => place));
    show();
  });
  svg.addEventListener("pointerleave", hide);
  svg.addEventListener("blur", hide);
  svg.addEventListener("keydown", (event) => {
    const to = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: places.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    at = Math.max(0, Math.min(places.length - 1, to));
    show();
  });
}
document.querySelectorAll("svg[data-chart]").forEach(watchChart);
