// Without it every page works by links and forms. It adds: keys (listed in the dialog of base.html), choices and documents
// of a page shown in place (scroll and focus stay, the address follows), copying, a note while a page takes long.
"use strict";
const PATIENCE = 250, AGAIN = 3000; // milliseconds
const one = (selector) => document.querySelector(selector);
let asked = 0, noting;

// Loading
function wait() {
  clearTimeout(noting);
  noting = setTimeout(() => { one(".loading").hidden = false; one("main").setAttribute("aria-busy", "true"); }, PATIENCE);
}
function done() {
  clearTimeout(noting);
  one(".loading").hidden = true;
  one("main").removeAttribute("aria-busy");
}
addEventListener("pageshow", done);
document.addEventListener("submit", (event) => { if (event.target.method === "get") wait(); });

// A page shown in place of this one
async function swap(link) {
  const mine = ++asked;
  wait();
  let page;
  try {
    const reply = await fetch(link.href);
    page = new DOMParser().parseFromString(await reply.text(), "text/html");
  } catch { location.assign(link.href); return; }
  if (mine !== asked) return;
  const held = link.dataset.swap, inRanking = link.closest(".ranking");
  show(page);
  history.pushState(null, "", link.href);
  const next = held && one(`[data-swap="${CSS.escape(held)}"]`);
  if (next) next.focus({ preventScroll: true });
  if (inRanking && one(".read")?.getBoundingClientRect().top > innerHeight) one(".read").scrollIntoView();
}
function show(page) {
  for (const selector of ["main", ".crumbs", ".tools"]) one(selector).replaceWith(page.querySelector(selector));
  document.title = page.title;
  ready();
  done();
}
addEventListener("popstate", async () => {
  if (location.hash) return;
  const mine = ++asked;
  wait();
  const reply = await fetch(location.href);
  const page = new DOMParser().parseFromString(await reply.text(), "text/html");
  if (mine === asked) show(page);
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
    button.textContent = "Copied";
  } catch { button.closest(".taken").querySelector("details").open = true; button.textContent = "Select it above"; }
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
  const target = field || one(`[data-key="${CSS.escape(event.key)}"]`);
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
  if (one("[data-again]")) setTimeout(() => { if (one("[data-again]") && document.activeElement?.tagName !== "INPUT") location.reload(); }, AGAIN);
}
function drawing(figure) {
  const image = figure.querySelector("img"), note = figure.querySelector("figcaption");
  const tell = (text) => { note.hidden = !text; note.textContent = text; };
  if (image.complete && image.naturalWidth) return;
  tell("Drawing …");
  image.onload = () => tell("");
  image.onerror = () => { image.hidden = true; tell("This figure cannot be drawn; its address tells why: "); note.append(Object.assign(document.createElement("a"), { href: image.src, textContent: image.src })); };
}
ready();
