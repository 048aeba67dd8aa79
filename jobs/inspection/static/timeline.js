// The timeline: a bar for each frame, coloured by its type, as high as what is measured.

import { make, matchPixels, number, percent } from "./elements.js";

// What a bar can show. Intra blocks are not predicted: their residual is stored against 128, and
// would dwarf all others. `plane` is what the clip must have for it; the first that it has is shown.
export const MEASURES = [
  ["mean_length", "Mean motion", "motion", (value) => `${number(value)} px`],
  ["max_length", "Longest motion", "motion", (value) => `${number(value)} px`],
  ["covered", "Predicted blocks", "motion", percent],
  ["intra", "Intra blocks", "motion", percent],
  ["num_vectors", "Vectors", "vectors", (value) => `${value} vectors`],
  ["predicted_energy", "Residual energy", "residual", (value) => `mean |r| ${number(value)}`],
  ["residual_energy", "... with intra blocks", "residual", (value) => `mean |r| ${number(value)}`],
  ["zero_macroblocks", "Macroblocks without residual", "residual", percent],
].map(([name, title, plane, text]) => ({ name, title, plane, text }));

const HEIGHT_OF_LETTERS = 16;
const HEIGHT_OF_NUMBERS = 16;
const WIDTH_OF_LETTER = 9;
const SPACE_OF_NUMBER = 44;
const INTERVALS = [1, 2, 5].flatMap((one) => [1, 10, 100, 1e3, 1e4, 1e5].map((ten) => one * ten));
INTERVALS.sort((one, other) => one - other);

export class Timeline {
  // `onSeek` is called with the number of the frame that was asked for.
  constructor(clip, { onSeek }) {
    this.clip = clip;
    this.onSeek = onSeek;
    this.measure = MEASURES.find((measure) => clip.planes.includes(measure.plane)) ?? null;
    this.first = clip.first;
    this.numFrames = clip.last - clip.first + 1;
    this.kinds = clip.kinds.slice(clip.first, clip.last + 1);
    this.statistics = clip.statistics ?? new Array(this.numFrames).fill(null);
    this.index = this.first;
    this.canvas = make("canvas", { className: "timeline-canvas" });
    this.note = make("output", { className: "timeline-note" });
    this.element = make("div", { className: "timeline", tabIndex: 0, role: "slider" }, this.canvas);
    for (const [name, value] of [
      ["label", "Frame"],
      ["valuemin", clip.first],
      ["valuemax", clip.last],
    ]) {
      this.element.setAttribute(`aria-${name}`, value);
    }
    this.sizes = new ResizeObserver(() => this.draw());
    this.sizes.observe(this.element);
    this.theme = matchMedia("(prefers-color-scheme: dark)");
    this.redraw = () => this.draw();
    this.theme.addEventListener("change", this.redraw);
    this.listen();
  }

  stop() {
    this.sizes.disconnect();
    this.theme.removeEventListener("change", this.redraw);
  }

  show(frame) {
    this.index = frame.index;
    this.statistics[frame.index - this.first] = frame.statistics;
    this.element.setAttribute("aria-valuenow", frame.index);
    this.element.setAttribute("aria-valuetext", `frame ${frame.index}, ${frame.kind}`);
    this.note.textContent = this.describe(frame.index);
    this.draw();
  }

  use(name) {
    this.measure = MEASURES.find((measure) => measure.name === name);
    this.note.textContent = this.describe(this.index);
    this.draw();
  }

  value(index) {
    return (this.measure && this.statistics[index - this.first]?.[this.measure.name]) ?? null;
  }

  describe(index) {
    const value = this.value(index);
    const time = this.clip.times[index];
    const when = time === null ? "" : ` \u00b7 ${number(time, 3)} s`;
    const what = value === null ? "" : ` \u00b7 ${this.measure.text(value)}`;
    const marks = [
      [this.clip.damaged_frames, "damaged"],
      [this.clip.scene_cuts, "scene cut"],
    ].map(([frames, word]) => (frames.includes(index) ? ` \u00b7 ${word}` : ""));
    return `frame ${index} \u00b7 ${this.clip.kinds[index]}${when}${what}${marks.join("")}`;
  }

  frameAt(event) {
    const box = this.canvas.getBoundingClientRect();
    const share = (event.clientX - box.left) / box.width;
    const place = Math.floor(share * this.numFrames);
    return this.first + Math.min(Math.max(place, 0), this.numFrames - 1);
  }

  listen() {
    const { canvas } = this;
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      this.held = true;
      this.onSeek(this.frameAt(event));
    });
    canvas.addEventListener("pointermove", (event) => {
      const index = this.frameAt(event);
      this.note.textContent = this.describe(index);
      if (this.held) {
        this.onSeek(index);
      }
    });
    for (const end of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(end, () => {
        this.held = false;
      });
    }
    canvas.addEventListener("pointerleave", () => {
      this.note.textContent = this.describe(this.index);
    });
  }

  draw() {
    if (this.canvas.clientWidth === 0) {
      return;
    }
    const ratio = matchPixels(this.canvas);
    const pen = this.canvas.getContext("2d");
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    const [width, height] = [this.canvas.clientWidth, this.canvas.clientHeight];
    pen.clearRect(0, 0, width, height);
    const colours = getComputedStyle(this.element);
    const colour = (name) => colours.getPropertyValue(`--${name}`).trim();
    const step = width / this.numFrames;
    const letters = step >= WIDTH_OF_LETTER ? HEIGHT_OF_LETTERS : 4;
    this.drawBars(pen, { colour, step, width, top: 4, bottom: height - HEIGHT_OF_NUMBERS - letters });
    this.drawTypes(pen, { colour, step, width, top: height - HEIGHT_OF_NUMBERS - letters, letters });
    this.drawNumbers(pen, { colour, step, width, bottom: height });
    this.drawPlace(pen, { colour, step, height: height - HEIGHT_OF_NUMBERS });
  }

  // Where frames are narrower than a pixel, a bar is the highest of its frames.
  drawBars(pen, { colour, step, width, top, bottom }) {
    const values = Array.from(this.kinds, (_, place) => this.value(this.first + place));
    const highest = values.reduce((most, value) => Math.max(most, value ?? 0), 1e-9);
    const frames = values.length;
    const bars = Math.min(frames, Math.floor(width));
    pen.fillStyle = colour("track");
    pen.fillRect(0, top, width, bottom - top);
    for (let bar = 0; bar < bars; bar += 1) {
      const [first, last] = [bar, bar + 1].map((edge) => Math.floor((edge * frames) / bars));
      let index = first;
      for (let other = first; other < last; other += 1) {
        index = (values[other] ?? -1) > (values[index] ?? -1) ? other : index;
      }
      if (values[index] !== null) {
        const high = Math.max(1, (values[index] / highest) * (bottom - top));
        const gap = step > 4 ? 1 : 0;
        pen.fillStyle = colour(`kind-${this.kinds[index]}`) || colour("kind-unknown");
        pen.fillRect((bar * width) / bars, bottom - high, width / bars - gap, high);
      }
    }
    for (const [marked, name] of [["scene_cuts", "accent"], ["damaged_frames", "danger"]]) {
      pen.fillStyle = colour(name);
      for (const index of this.clip[marked]) {
        pen.fillRect((index - this.first) * step, 0, Math.max(2, step - 1), 4);
      }
    }
  }

  drawTypes(pen, { colour, step, top, letters }) {
    const gap = step > 4 ? 1 : 0;
    pen.textAlign = "center";
    pen.textBaseline = "middle";
    pen.font = "600 10px system-ui, sans-serif";
    Array.from(this.kinds).forEach((kind, index) => {
      if (letters > 4) {
        pen.fillStyle = colour(`kind-${kind}`) || colour("kind-unknown");
        pen.fillRect(index * step, top + 1, step - gap, letters - 1);
        pen.fillStyle = colour("on-kind");
        pen.fillText(kind, (index + 0.5) * step - gap / 2, top + 1 + letters / 2);
      } else if (kind === "I" || step >= 1) {
        pen.fillStyle = colour(`kind-${kind}`) || colour("kind-unknown");
        pen.fillRect(index * step, top + 1, Math.max(1, step - gap), letters - 1);
      }
    });
  }

  drawNumbers(pen, { colour, step, width, bottom }) {
    const interval = INTERVALS.find((frames) => frames * step >= SPACE_OF_NUMBER) ?? 1e6;
    pen.font = "11px system-ui, sans-serif";
    pen.fillStyle = colour("muted");
    pen.textAlign = "center";
    pen.textBaseline = "bottom";
    const last = this.first + this.numFrames - 1;
    for (let index = Math.ceil(this.first / interval) * interval; index <= last; index += interval) {
      const text = String(index);
      const half = pen.measureText(text).width / 2;
      const x = Math.min(Math.max((index - this.first + 0.5) * step, half), width - half);
      pen.fillText(text, x, bottom);
    }
  }

  drawPlace(pen, { colour, step, height }) {
    const middle = (this.index - this.first + 0.5) * step - (step > 4 ? 0.5 : 0);
    const half = Math.max(step / 2 - (step > 4 ? 0.5 : 0), 1.5);
    pen.strokeStyle = colour("text");
    pen.lineWidth = 2;
    pen.beginPath();
    if (half > 3) {
      pen.roundRect(middle - half, 1, 2 * half, height - 1, 3);
    } else {
      pen.moveTo(middle, 0);
      pen.lineTo(middle, height);
    }
    pen.stroke();
  }
}
