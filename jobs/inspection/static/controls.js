// The player's buttons and choices, and the help for its keys.

import { icon, make } from "./elements.js";

const ICONS = {
  first: "M6 5v14M19 5l-9 7 9 7z",
  back: "M16 5l-9 7 9 7z",
  play: "M7 4l13 8-13 8z",
  pause: "M8 5v14M16 5v14",
  forward: "M8 5l9 7-9 7z",
  last: "M18 5v14M5 5l9 7-9 7z",
  less: "M5 12h14",
  more: "M5 12h14M12 5v14",
  loop: "M17 3l4 4-4 4M3 12v-1a4 4 0 0 1 4-4h14M7 21l-4-4 4-4M21 12v1a4 4 0 0 1-4 4H3",
  fit: "M4 9V4h5M20 9V4h-5M4 15v5h5M20 15v5h-5",
};
const KEYS = [
  ["Space", "play or pause"],
  ["\u2190 \u2192", "one frame back or on; with Shift ten"],
  ["Home End", "first or last frame"],
  ["[ ]", "I-frame before or after"],
  ["1 \u2026 7", "layers on and off"],
  ["R", "references: past, future, both"],
  ["+ \u2212 0", "zoom in, out, fit; also Ctrl and wheel, double click, two fingers"],
  ["L", "play again from the start, or stop at the end"],
  ["Esc", "let go of the block that a click has chosen"],
  ["?", "this help"],
];

export function iconButton(name, title, action) {
  const button = make("button", { type: "button", title, "data-action": name });
  button.setAttribute("aria-label", title);
  button.addEventListener("click", action);
  drawIcon(button, name);
  return button;
}

export function drawIcon(button, name) {
  button.replaceChildren(icon(ICONS[name]));
}

// A labelled choice among [value, text].
export function choice(title, options, chosen, onChange) {
  const select = make("select", { "aria-label": title });
  for (const [value, text] of options) {
    select.append(new Option(text, value, false, value === chosen));
  }
  select.addEventListener("change", () => onChange(select.value));
  return make("label", { className: "choice" }, make("span", {}, title), select);
}

export function helpDialog() {
  const rows = KEYS.flatMap(([keys, what]) => [
    make("dt", {}, ...keys.split(" ").map((key) => make("kbd", {}, key))),
    make("dd", {}, what),
  ]);
  const close = make("button", { type: "button", autofocus: true }, "Close");
  const dialog = make("dialog", { className: "help" }, make("h2", {}, "Keyboard"));
  dialog.append(make("dl", {}, ...rows), close);
  close.addEventListener("click", () => dialog.close());
  return dialog;
}
