// Keys: j and k step through links of the page, Enter follows, [ and ] go to the query before and after, / searches.
"use strict";
const steps = () => [...document.querySelectorAll("[data-step]")];
function step(by) {
  const links = steps();
  if (!links.length) return;
  const at = links.indexOf(document.activeElement);
  const to = at < 0 ? (by > 0 ? 0 : links.length - 1) : Math.min(Math.max(at + by, 0), links.length - 1);
  links[to].focus();
}
const follow = (selector) => { const link = document.querySelector(selector); if (link) link.click(); };
const keys = { j: () => step(1), k: () => step(-1), "[": () => follow("[data-before]"), "]": () => follow("[data-after]"),
  "/": () => { const field = document.querySelector("[data-search]"); if (field) field.focus(); } };
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || /^(input|select|textarea)$/i.test(event.target.tagName)) return;
  const act = keys[event.key];
  if (act) { event.preventDefault(); act(); }
});
document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy]");
  if (!button) return;
  await navigator.clipboard.writeText(button.dataset.copy);
  button.textContent = "Copied";
});
for (const select of document.querySelectorAll(".filters select")) select.addEventListener("change", () => select.form.submit());
