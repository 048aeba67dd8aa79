// The player's buttons and choices, its keys, and the help.

import { icon, make } from "./elements.js";
import { LAYERS } from "./layers.js";

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

const READING = [
  "Arrows point the way things move. The codec's vectors point the other way, to where a block was "
    + "predicted from. Blue: from the past to the block. Orange, in B-frames: from the block on to "
    + "the future. A dot is a block that stands still; a block without arrow or dot is intra.",
  "A vector is no speed: it may span several frames. I-frames have none. "
    + "docs/reading_motion_vectors.md explains all this with pictures.",
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

export function helpDialog(clip) {
  const list = (rows) =>
    make("dl", {}, ...rows.flatMap(([term, what]) => [make("dt", {}, ...term), make("dd", {}, what)]));
  const layers = LAYERS.filter((layer) => layer.plane(clip.planes));
  const options = layers.map(({ title, option }) => option ?? title.toLowerCase());
  const keys = KEYS.map(([names, what]) => [
    names.split(" ").map((name) => make("kbd", {}, name)),
    what,
  ]);
  const close = make("button", { type: "button", autofocus: true }, "Close");
  const dialog = make("dialog", { className: "help" });
  dialog.append(
    close,
    make("h2", {}, "Layers"),
    list(layers.map(({ title, hint }) => [[title], hint])),
    ...READING.map((text) => make("p", {}, text)),
    make("p", {}, `In pictures: gopstream inspect ... --png FOLDER --layers ${options.join(",")}`),
    make("h2", {}, "Keyboard"),
    list(keys),
  );
  close.addEventListener("click", () => dialog.close());
  return dialog;
}

// Return what a key does to a player, or undefined; keys of the browser and of fields are theirs.
export function keyAction(player, event) {
  const { tagName, type } = event.target;
  const typing = tagName === "SELECT" || (tagName === "INPUT" && type !== "checkbox");
  if (event.ctrlKey || event.metaKey || event.altKey || typing || player.help.open) {
    return undefined;
  }
  const pressed = tagName === "BUTTON" || tagName === "INPUT" || tagName === "SUMMARY";
  if (pressed && (event.key === " " || event.key === "Enter")) {
    return undefined;
  }
  return actionsOf(player, event.shiftKey ? 10 : 1)[event.key];
}

function actionsOf(player, frames) {
  const boxes = [...player.layers.querySelectorAll("input[type=checkbox]")];
  const letters = {
    r: () => player.nextReferences(),
    l: () => player.toggleLoop(),
  };
  return {
    ...Object.fromEntries(boxes.map((box, position) => [position + 1, () => box.click()])),
    ...letters,
    R: letters.r,
    L: letters.l,
    " ": () => player.toggle(),
    ArrowLeft: () => player.step(-frames),
    ArrowRight: () => player.step(frames),
    Home: () => player.step(-Infinity),
    End: () => player.step(Infinity),
    "[": () => player.stepToIntra(-1),
    "]": () => player.stepToIntra(1),
    "+": () => player.stage.zoomBy(1.5),
    "=": () => player.stage.zoomBy(1.5),
    "-": () => player.stage.zoomBy(1 / 1.5),
    0: () => player.fit(),
    Escape: () => player.lookAt(null, true),
    "?": () => player.help.showModal(),
  };
}
