// What is around the stage: the header, and panels of layers, the block under the pointer, the
// frame and the clip.

import { LISTS, blockType, blockVector, movement, vectorsAt } from "./blocks.js";
import { fillFacts, make, number, percent } from "./elements.js";
import {
  ARROW_COLOUR_OF_LIST,
  LAYERS,
  STRONGEST_HEAT,
  TYPE_COLOURS,
  directionColour,
  fullColourLength,
  heatColour,
} from "./layers.js";

const TYPE_NAMES = {
  intra: "intra: not predicted from another frame",
  past: "predicted from the past",
  future: "predicted from the future",
  both: "predicted from past and future",
};
const ARROWS = ["\u2192", "\u2198", "\u2193", "\u2199", "\u2190", "\u2196", "\u2191", "\u2197"];

export function panel(title, name, ...children) {
  const heading = make("h2", {}, title);
  return make("section", { className: `panel panel-${name}` }, heading, ...children);
}

export function playerHeader(clip, help) {
  const hasVectors = clip.num_lists > 0;
  const chips = [
    clip.label === null ? "" : make("span", { className: "chip" }, clip.label),
    make("span", { className: "chip quiet" }, hasVectors ? `${clip.mode} vectors` : "no vectors"),
    clip.exactness === "exact"
      ? make("span", { className: "chip good" }, "exact residual")
      : make("span", { className: "chip quiet", title: clip.exactness }, "no exact residual"),
  ];
  const button = make("button", { type: "button", className: "quiet", title: "Help (?)" }, "?");
  button.setAttribute("aria-label", "Help: layers and keys");
  button.addEventListener("click", () => help.showModal());
  const name = make("h1", { title: clip.name }, clip.name);
  const header = make("header", { className: "player-header" }, name, ...chips, button);
  if (clip.warnings.length > 0) {
    header.append(make("div", { className: "warnings", role: "note" }, lines(clip.warnings)));
  }
  return header;
}

// A switch and a slider for each layer that the clip has.
export function layersPanel(clip, state, onChange) {
  const rows = LAYERS.filter((layer) => layer.plane(clip.planes)).map((layer, position) => {
    const chosen = state.layers[layer.name];
    const box = make("input", { type: "checkbox", checked: chosen.shown, id: `layer-${layer.name}` });
    const slider = make("input", {
      type: "range",
      min: "0.05",
      max: "1",
      step: "0.05",
      "aria-label": `Opacity of ${layer.title}`,
    });
    slider.value = String(chosen.opacity);
    const label = make("label", { htmlFor: box.id, title: layer.hint ?? "" }, layer.title);
    const key = make("kbd", {}, String(position + 1));
    const legend = layer.legend ? LEGENDS[layer.legend](clip) : "";
    const row = make("div", { className: "layer", "data-layer": layer.name });
    row.append(box, label, key, slider, legend);
    box.addEventListener("change", () => {
      chosen.shown = box.checked;
      onChange();
    });
    slider.addEventListener("input", () => {
      chosen.opacity = Number(slider.value);
      onChange();
    });
    return row;
  });
  return panel("Layers", "layers", ...rows);
}

function swatch(colour, text) {
  const mark = make("i", { className: "swatch" });
  mark.style.background = colour;
  return make("span", {}, mark, text);
}

const rgb = (colour) => `rgb(${colour.map(Math.round).join(" ")})`;

const LEGENDS = {
  types: (clip) => {
    const names = clip.num_lists > 1 ? ["intra", "past", "future", "both"] : ["intra", "past"];
    const marks = names.map((name) => swatch(rgb(TYPE_COLOURS[name]), name));
    return make("div", { className: "legend" }, ...marks);
  },
  arrows: (clip) => {
    const marks = LISTS.slice(0, Math.max(1, clip.num_lists)).map((name, list) =>
      swatch(ARROW_COLOUR_OF_LIST[list], clip.num_lists > 1 ? `${name} reference` : "vector"),
    );
    const told = make("span", { "data-told": "arrows" });
    const what = "the way things move";
    return make("div", { className: "legend" }, ...marks, what, told);
  },
  heat: () => {
    const bar = make("i", { className: "ramp" });
    const stops = [0, 0.25, 0.5, 0.75, 1].map((heat) => rgb(heatColour(heat)));
    bar.style.background = `linear-gradient(to right, ${stops.join(", ")})`;
    return make("div", { className: "legend" }, "0", bar, `mean |r| ${STRONGEST_HEAT}`);
  },
  wheel: (clip) => {
    const wheel = make("i", { className: "wheel" });
    const stops = Array.from({ length: 25 }, (_, i) => {
      const turn = ((i * 15 - 90) * Math.PI) / 180; // a conic gradient begins at the top
      return rgb(directionColour(Math.cos(turn), Math.sin(turn)));
    });
    wheel.style.background = `conic-gradient(${stops.join(", ")})`;
    const text = `full colour from ${fullColourLength(clip)} px`;
    return make("div", { className: "legend" }, wheel, text);
  },
};

function lines(texts) {
  return make("ul", {}, ...texts.map((text) => make("li", {}, text)));
}

// The arrow glyph of a movement.
function glyph(x, y) {
  return x === 0 && y === 0 ? "\u00b7" : ARROWS[Math.round(Math.atan2(y, x) / (Math.PI / 4) + 8) % 8];
}

function pixels(x, y) {
  return `(${number(x)}, ${number(y)}) px`;
}

// The codec's vector leads to where a block comes from: content has moved the other way.
function movedText(dx, dy, list) {
  const [x, y] = movement(list, dx, dy);
  return `${pixels(x, y)} ${glyph(x, y)}`;
}

// Return rows of facts of the block that holds a pixel, and its rectangle.
export function blockFacts(clip, frame, [x, y]) {
  const { block } = clip;
  const columns = clip.coded_size[0] / block;
  const [column, row] = [Math.floor(x / block), Math.floor(y / block)];
  const position = row * columns + column;
  const type = blockType(frame, position);
  const rows = [["Block", `column ${column}, row ${row}`, "block"]];
  rows.push(["Pixel", `${x}, ${y}`, "pixel"]);
  rows.push(["Type", type === null ? "not known" : TYPE_NAMES[type], "type"]);
  LISTS.forEach((name, list) => {
    const vector = blockVector(frame, list, position);
    if (vector !== null) {
      const length = number(Math.hypot(...vector));
      rows.push([`Vector to ${name}`, `${pixels(...vector)}, length ${length}`, `vector-${name}`]);
      const moves = list === 0 ? "Content moved by" : "Will move by";
      rows.push([moves, movedText(...vector, list), `moved-${name}`]);
    }
  });
  const found = vectorsAt(frame, x, y);
  if (found.length > 0) {
    const texts = found.map((one) => {
      const moved = movedText(one.dx, one.dy, one.list);
      const motion = frame.motion === null ? `: ${pixels(one.dx, one.dy)}, content moves by ${moved}` : "";
      return `${one.width} \u00d7 ${one.height} ${LISTS[one.list]}${motion}`;
    });
    rows.push(["Partition", lines(texts), "partition"]);
  }
  if (frame.residual !== null) {
    const sum = frame.residual.data[position];
    const against = type === "intra" ? ", against 128" : ""; // as it is stored
    const text = `mean |r| ${number(sum / block ** 2)}, sum ${sum}${against}`;
    rows.push(["Residual", text, "residual"]);
  }
  return { rows, rectangle: [column * block, row * block, block, block] };
}

// Return rows of facts of a frame; what is not known is left out.
export function frameFacts(clip, frame) {
  const { statistics } = frame;
  const known = (name, title, text) =>
    statistics?.[name] === null || statistics?.[name] === undefined
      ? []
      : [[title, text(statistics[name]), name]];
  const vectors = (count) =>
    statistics.num_future > 0
      ? `${count}: ${statistics.num_past} past, ${statistics.num_future} future`
      : String(count);
  const rows = [
    ["Type", frame.kind, "kind"],
    ...(frame.time === null ? [] : [["Time", `${number(frame.time, 3)} s`, "time"]]),
    ...known("num_vectors", "Vectors", vectors),
    ...known("covered", "Predicted blocks", percent),
    ...known("intra", "Intra blocks", percent),
    ...known("static", "Standing still", percent),
    ...known("mean_length", "Mean motion", (length) => `${number(length)} px`),
    ...known("median_length", "Median motion", (length) => `${number(length)} px`),
    ...known("p95_length", "95 % are below", (length) => `${number(length)} px`),
    ...known("max_length", "Longest motion", (length) => `${number(length)} px`),
    ...known("predicted_energy", "Residual energy", (mean) => `mean |r| ${number(mean)}`),
    ...known("zero_macroblocks", "Without residual", (share) => `${percent(share)} of macroblocks`),
  ];
  if (frame.picture !== null && frame.pictureOf !== frame.index) {
    rows.push(["Picture", `of frame ${frame.pictureOf}: not every frame is stored`, "picture-of"]);
  }
  return rows;
}

function plainText(value) {
  if (Array.isArray(value)) {
    return value.map(plainText).join(", ");
  }
  return value !== null && typeof value === "object" ? JSON.stringify(value) : String(value);
}

// The panel of the clip: what everybody asks first, the rest behind a click.
export function clipPanel(clip) {
  const facts = (rows) => {
    const list = make("dl", { className: "facts" });
    fillFacts(list, rows);
    return list;
  };
  const more = (title, name, content) =>
    make("details", { "data-more": name }, make("summary", {}, title), content);
  const parts = [facts(clipFacts(clip))];
  if (clip.exactness !== "exact") {
    const reasons = lines(clip.exactness.split("; "));
    reasons.className = "reasons";
    parts.push(more("Why there is no exact residual", "exactness", reasons));
  }
  const stream = Object.entries(clip.stream).filter(([, value]) => value !== null);
  if (stream.length > 0) {
    const rows = stream.map(([name, value]) => [name.replaceAll("_", " "), plainText(value)]);
    parts.push(more("All that is known of the stream", "stream", facts(rows)));
  }
  return panel("Clip", "clip", ...parts);
}

function clipFacts(clip) {
  const counts = ["I", "P", "B", "?"].map((kind) => [kind, clip.kinds.split(kind).length - 1]);
  const kinds = counts.filter(([, count]) => count > 0).map(([kind, count]) => `${count} ${kind}`);
  const [, , width, height] = clip.display_rect;
  const vectors = clip.num_lists > 0 ? `${clip.mode} vectors` : "no vectors";
  const hint = clip.source === "video" ? "; extract --mode canonical makes one" : "";
  return [
    ["Source", `${clip.source}, ${vectors}`, "source"],
    ...(clip.label === null ? [] : [["Label", clip.label, "label"]]),
    ["Frames", `${clip.kinds.length} (${kinds.join(", ")})`, "frames"],
    ["Shown", `${width} \u00d7 ${height}`, "shown"],
    ["Coded", clip.coded_size.join(" \u00d7 "), "coded"],
    ["Residual", clip.exactness === "exact" ? "exact" : `none that is exact${hint}`, "exactness"],
  ];
}
