// Without it every page works by links and forms. It adds: keys (listed in the dialog of base.html), choices and documents
// of a page shown in place (scroll and focus stay, the address follows), copying, a note while a page takes long.
"use strict";
const PATIENCE = 250, AGAIN = 3000; // milliseconds
const one = (selector) => document.querySelector(selector);
let asked = 0, noting, looking, shown = location.pathname + location.search;

// What is told above the page: that it takes long, that something was copied
function tell(text) {
  clearTimeout(noting);
  one(".note").textContent = text;
  one(".note").hidden = !text;
}
function wait(note = "Reading the lake …") {
  clearTimeout(noting);
  noting = setTimeout(() => { tell(note); one("main").setAttribute("aria-busy", "true"); }, PATIENCE);
}
function done() {
  tell("");
  one("main").removeAttribute("aria-busy");
}
addEventListener("pageshow", done);
document.addEventListener("submit", (event) => { if (event.target.method === "get") wait(event.target.dataset.wait); });

// A page shown in place of this one
async function fetched(address) {
  const mine = ++asked;
  wait();
  try {
    const text = await (await fetch(address)).text();
    return mine === asked ? new DOMParser().parseFromString(text, "text/html") : null;
  } catch {
    location.assign(address); // whose own page says that nobody answers
    return null;
  }
}
function show(page) {
  for (const selector of ["main", ".crumbs", ".tools"]) one(selector).replaceWith(page.querySelector(selector));
  document.title = page.title;
  shown = location.pathname + location.search;
  ready();
  done();
}
async function swap(link) {
  const held = link.dataset.swap, inRanking = link.closest(".ranking");
  const page = await fetched(link.href);
  if (!page) return;
  history.pushState(null, "", link.href);
  show(page);
  one(`[data-swap="${CSS.escape(held)}"]`)?.focus({ preventScroll: true });
  if (inRanking && one(".read")?.getBoundingClientRect().top > innerHeight) one(".read").scrollIntoView();
}
addEventListener("popstate", async () => {
  if (location.pathname + location.search === shown) return; // another place on the same page
  const page = await fetched(location.href);
  if (page) show(page);
});

// Clicks
document.addEventListener("click", (event) => {
  const copy = event.target.closest("[data-copy]");
  if (copy) { copied(copy); return; }
  if (event.target.closest("[data-help]")) { one("#help").showModal(); return; }
  if (event.target.closest("[data-theme-button]")) { theme(); return; }
  const link = event.target.closest("a[href]");
  if (!link || event.button || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
  if (link.matches("[data-swap]")) { event.preventDefault(); swap(link); }
  else if (!link.hasAttribute("download") && !link.getAttribute("href").startsWith("#")) wait();
});
async function copied(button) {
  try {
    await navigator.clipboard.writeText(button.dataset.copy);
    tell("Copied");
  } catch {
    button.closest(".taken").querySelector("details").open = true;
    tell("The browser does not let it be copied; it is opened to be selected");
  }
  noting = setTimeout(tell, AGAIN, "");
}
function theme() {
  const root = document.documentElement.dataset, next = { undefined: "light", light: "dark", dark: undefined }[root.theme];
  if (next) root.theme = next; else delete root.theme;
  try { if (next) localStorage.setItem("theme", next); else localStorage.removeItem("theme"); } catch { /* not kept */ }
}

// Keys
function step(by) {
  const links = [...document.querySelectorAll("[data-step]")].filter((link) => link.checkVisibility());
  if (!links.length) return;
  const at = links.indexOf(document.activeElement);
  const to = at < 0 ? (by > 0 ? 0 : links.length - 1) : Math.min(Math.max(at + by, 0), links.length - 1);
  links[to].focus();
}
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || one("#help").open) return;
  if (/^(input|select|textarea)$/i.test(event.target.tagName)) { if (event.key === "Escape") event.target.blur(); return; }
  const field = event.key === "/" && one("[data-search]");
  const up = event.key === "u" && [...document.querySelectorAll(".crumbs a")].at(-1);
  const target = field || up || one(`[data-key="${CSS.escape(event.key)}"]`);
  if (event.key === "j" || event.key === "k") step(event.key === "j" ? 1 : -1);
  else if (field) field.focus();
  else if (target) target.click();
  else return;
  event.preventDefault();
});

// What a new page needs
function ready() {
  for (const select of document.querySelectorAll(".filters select")) select.onchange = () => select.form.requestSubmit();
  for (const figure of document.querySelectorAll("figure")) drawing(figure);
  later();
}
function later() {
  clearTimeout(looking);
  if (one("[data-again]")) looking = setTimeout(again, AGAIN);
}
function again() {
  if (!one("[data-again]")) return;
  if (document.activeElement?.tagName === "INPUT") later(); // what is being written would be lost
  else location.reload();
}
function drawing(figure) {
  const image = figure.querySelector("img"), note = figure.querySelector("figcaption");
  const told = (text) => { note.hidden = !text; note.textContent = text; figure.classList.toggle("waiting", Boolean(text)); };
  if (image.complete && image.naturalWidth) return;
  told("Drawing …");
  image.onload = () => told("");
  image.onerror = () => { told("This figure cannot be drawn; open it to read why"); image.hidden = true; note.append(" ", link(image.src)); };
}
function link(address) {
  return Object.assign(document.createElement("a"), { href: address, textContent: "open" });
}
ready();
