// Before anything is drawn: light or dark where the reader chose one, as the system has it otherwise.
"use strict";
try {
  const theme = localStorage.getItem("theme");
  if (theme) document.documentElement.dataset.theme = theme;
} catch { /* a browser that keeps nothing */ }
