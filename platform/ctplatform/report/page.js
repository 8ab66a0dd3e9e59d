"use strict";
document.querySelectorAll("button.zoom").forEach((button) => {
  button.addEventListener("click", () => {
    const wide = button.closest(".shot").classList.toggle("wide");
    button.setAttribute("aria-pressed", String(wide));
  });
});
// Of a figure with a select box one chart is shown; without scripts all are.
document.querySelectorAll("p.choice").forEach((choice) => {
  const select = choice.querySelector("select");
  const panels = document.getElementById(select.getAttribute("aria-controls")).querySelectorAll(".panel");
  const show = () => panels.forEach((panel, i) => { panel.hidden = String(i) !== select.value; });
  choice.classList.add("works");
  select.addEventListener("change", show);
  show();
});
// On a narrow screen the contents stand above the page and start closed.
const toc = document.querySelector("details.toc");
const narrow = window.matchMedia("(max-width: 62rem)");
const fold = () => { toc.open = !narrow.matches; };
narrow.addEventListener("change", fold);
fold();
// Mark the section that is being read.
const links = new Map([...document.querySelectorAll(".toc a")].map((a) => [a.hash.slice(1), a]));
const observer = new IntersectionObserver((entries) => {
  entries.filter((entry) => entry.isIntersecting).forEach((entry) => {
    links.forEach((a) => a.removeAttribute("aria-current"));
    links.get(entry.target.id)?.setAttribute("aria-current", "true");
  });
}, { rootMargin: "0px 0px -75% 0px" });
document.querySelectorAll("main > section").forEach((section) => observer.observe(section));
// Paper cannot be unfolded: print what is behind the figures too.
window.addEventListener("beforeprint", () => {
  document.querySelectorAll("main details").forEach((details) => { details.open = true; });
});
