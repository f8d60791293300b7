// Filters the cases by suite and by result; without scripts the page shows all of them.
const form = document.querySelector("form.filter");
const [suite, result] = form.querySelectorAll("select"), output = form.querySelector("output");
const sections = [...document.querySelectorAll("section.suite")];
const cases = [...document.querySelectorAll("details.case")];
const apply = () => {
  for (const item of cases) {
    const kinds = item.dataset.is.split(" ");
    item.hidden = result.value !== "" && !kinds.includes(result.value);
  }
  let shown = 0;
  for (const section of sections) {
    const found = section.querySelectorAll("details.case:not([hidden])").length;
    section.hidden = (suite.value !== "" && section.id !== suite.value) || (result.value !== "" && !found);
    if (!section.hidden) shown += found;
    for (const rest of section.querySelectorAll("details.rest")) {
      rest.hidden = !rest.querySelector("details.case:not([hidden])");
      if (result.value) rest.open = true;
    }
  }
  output.value = `${shown.toLocaleString("en")} of ${cases.length.toLocaleString("en")} cases`;
};
form.addEventListener("input", apply);
form.addEventListener("submit", (event) => event.preventDefault());
for (const button of form.querySelectorAll("button")) {
  button.addEventListener("click", () => {
    for (const item of cases) if (!item.hidden) item.open = button.name === "open";
  });
}
// A link to a suite that is filtered out shows it.
addEventListener("hashchange", () => {
  const section = sections.find((each) => `#${each.id}` === location.hash);
  if (!section?.hidden) return;
  suite.value = result.value = "";
  apply();
  section.scrollIntoView();
});
form.hidden = false;
apply();
