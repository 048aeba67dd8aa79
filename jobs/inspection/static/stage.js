// The stage: draws the layers of a frame, zooms, and tells which pixel the pointer is on.

import { make, matchPixels } from "./elements.js";
import { LAYERS, automaticScale, whyNoVectors } from "./layers.js";

const STRONGEST_ZOOM = 48; // screen pixels per coded pixel
const CLICK_DISTANCE = 5;

export class Stage {
  // `state` has `layers` (by name: {shown, opacity}), `lists`, `arrowScale` (null: by itself) and
  // `statistics`, of all frames whose numbers are known; `onPoint` is
  // called with the [x, y] of a pixel of the coded picture or null, and whether it was chosen;
  // `onTold` with what layers have to say, by their names.
  constructor(clip, { state, onPoint, onZoom, onTold }) {
    this.clip = clip;
    this.state = state;
    this.onPoint = onPoint;
    this.onZoom = onZoom;
    this.onTold = onTold;
    this.frame = null;
    this.marked = null;
    this.zoom = 1;
    this.pointers = new Map();
    const [x, y, width, height] = clip.display_rect;
    this.centre = [x + width / 2, y + height / 2];
    this.canvas = make("canvas", { className: "stage-canvas", role: "img" });
    this.canvas.setAttribute("aria-label", "The frame with its layers");
    this.note = make("p", { className: "stage-note", role: "status", hidden: true });
    this.element = make("div", { className: "stage" }, this.canvas, this.note);
    this.element.style.aspectRatio = `${width} / ${height}`;
    this.sizes = new ResizeObserver(() => this.redraw());
    this.sizes.observe(this.element);
    this.listen();
  }

  stop() {
    this.sizes.disconnect();
    cancelAnimationFrame(this.waiting);
  }

  show(frame) {
    this.frame = frame;
    this.redraw();
  }

  // Mark a block: [x, y, width, height] in coded pixels, or null.
  mark(rectangle) {
    this.marked = rectangle;
    this.redraw();
  }

  redraw() {
    cancelAnimationFrame(this.waiting);
    this.waiting = requestAnimationFrame(() => this.draw());
  }

  // Screen pixels per coded pixel at which the whole picture fits.
  fitScale() {
    const [, , width, height] = this.clip.display_rect;
    return Math.min(this.canvas.clientWidth / width, this.canvas.clientHeight / height);
  }

  get scale() {
    return this.fitScale() * this.zoom;
  }

  draw() {
    const ratio = matchPixels(this.canvas);
    const pen = this.canvas.getContext("2d");
    pen.setTransform(1, 0, 0, 1, 0, 0);
    pen.clearRect(0, 0, this.canvas.width, this.canvas.height);
    if (this.frame === null || this.canvas.clientWidth === 0) {
      return;
    }
    this.keepInside();
    const scale = this.scale * ratio;
    pen.setTransform(
      scale,
      0,
      0,
      scale,
      this.canvas.width / 2 - this.centre[0] * scale,
      this.canvas.height / 2 - this.centre[1] * scale,
    );
    pen.save();
    pen.beginPath();
    pen.rect(...this.clip.display_rect);
    pen.clip();
    this.drawLayers(pen);
    pen.restore();
    this.tellVectors();
    if (this.marked !== null) {
      this.drawMark(pen);
    }
    this.element.dataset.drawn = this.frame.index;
  }

  drawLayers(pen) {
    const view = {
      clip: this.clip,
      lists: this.state.lists,
      arrowScale: this.state.arrowScale ?? this.automaticScale(),
      pixel: 1 / this.scale,
      told: {},
    };
    pen.fillStyle = "#17191c";
    pen.fillRect(...this.clip.display_rect);
    for (const layer of LAYERS) {
      const { shown, opacity } = this.state.layers[layer.name];
      if (shown && layer.has(this.frame)) {
        pen.globalAlpha = opacity;
        layer.draw(pen, this.frame, view);
      }
    }
    pen.globalAlpha = 1;
    this.onTold(view.told);
  }

  automaticScale() {
    return automaticScale(this.state.statistics, 1 / this.fitScale());
  }

  // Where arrows are asked for and there are none, say why.
  tellVectors() {
    const { arrows } = this.state.layers;
    const why = arrows.shown && this.clip.num_lists > 0 ? whyNoVectors(this.frame) : "";
    if (this.note.textContent !== why) {
      this.note.textContent = why;
      this.note.hidden = why === "";
    }
  }

  drawMark(pen) {
    pen.lineWidth = 4 / this.scale;
    pen.strokeStyle = "#000000";
    pen.strokeRect(...this.marked);
    pen.lineWidth = 2 / this.scale;
    pen.strokeStyle = "#ffffff";
    pen.strokeRect(...this.marked);
  }

  // The picture never leaves the stage, and where it is smaller it is centred.
  keepInside() {
    const [x, y, width, height] = this.clip.display_rect;
    const limits = [
      [x, width, this.canvas.clientWidth],
      [y, height, this.canvas.clientHeight],
    ];
    this.centre = this.centre.map((centre, axis) => {
      const [start, length, screen] = limits[axis];
      const half = Math.min(length, screen / this.scale) / 2;
      return Math.min(Math.max(centre, start + half), start + length - half);
    });
  }

  // Return the coded [x, y] under a place of the page.
  codedPlace(clientX, clientY) {
    const box = this.canvas.getBoundingClientRect();
    return [
      this.centre[0] + (clientX - box.left - box.width / 2) / this.scale,
      this.centre[1] + (clientY - box.top - box.height / 2) / this.scale,
    ];
  }

  pixelAt(event) {
    const [x, y] = this.codedPlace(event.clientX, event.clientY);
    const [left, top, width, height] = this.clip.display_rect;
    const inside = x >= left && x < left + width && y >= top && y < top + height;
    return inside ? [Math.floor(x), Math.floor(y)] : null;
  }

  // Zoom by a factor around a place of the page, or around the middle.
  zoomBy(factor, place = null) {
    const strongest = Math.max(1, STRONGEST_ZOOM / this.fitScale());
    const zoom = Math.min(Math.max(this.zoom * factor, 1), strongest);
    const [x, y] = place === null ? this.centre : this.codedPlace(...place);
    const share = this.zoom / zoom;
    this.centre = [x + (this.centre[0] - x) * share, y + (this.centre[1] - y) * share];
    this.zoom = zoom;
    this.element.classList.toggle("zoomed", zoom > 1);
    this.onZoom(this.scale);
    this.redraw();
  }

  listen() {
    const { canvas } = this;
    canvas.addEventListener("pointerdown", (event) => this.press(event));
    canvas.addEventListener("pointermove", (event) => this.move(event));
    canvas.addEventListener("pointerup", (event) => this.release(event));
    canvas.addEventListener("pointercancel", (event) => this.pointers.delete(event.pointerId));
    canvas.addEventListener("pointerleave", (event) => {
      if (event.pointerType === "mouse") {
        this.onPoint(null, false);
      }
    });
    canvas.addEventListener("dblclick", (event) => {
      this.zoomBy(event.shiftKey ? 0.5 : 2, [event.clientX, event.clientY]);
    });
    // A trackpad's pinch comes as a wheel with Ctrl. The plain wheel scrolls the page.
    canvas.addEventListener(
      "wheel",
      (event) => {
        if (event.ctrlKey || event.metaKey) {
          event.preventDefault();
          this.zoomBy(Math.exp(-event.deltaY / 200), [event.clientX, event.clientY]);
        }
      },
      { passive: false },
    );
  }

  press(event) {
    this.canvas.setPointerCapture(event.pointerId);
    const place = [event.clientX, event.clientY];
    this.pointers.set(event.pointerId, { start: place, last: place });
  }

  move(event) {
    const held = this.pointers.get(event.pointerId);
    const place = [event.clientX, event.clientY];
    if (held === undefined || this.zoom === 1) {
      if (event.pointerType === "mouse") {
        this.onPoint(this.pixelAt(event), false);
      }
    }
    if (held === undefined) {
      return;
    }
    if (this.pointers.size === 2) {
      const [other] = [...this.pointers.values()].filter((pointer) => pointer !== held);
      const distance = (from) => Math.hypot(from[0] - other.last[0], from[1] - other.last[1]);
      this.zoomBy(distance(place) / Math.max(1, distance(held.last)), other.last);
    } else if (this.zoom > 1) {
      this.centre = this.centre.map((at, axis) => at - (place[axis] - held.last[axis]) / this.scale);
      this.redraw();
    }
    held.last = place;
  }

  release(event) {
    const held = this.pointers.get(event.pointerId);
    this.pointers.delete(event.pointerId);
    const moved = held && Math.hypot(event.clientX - held.start[0], event.clientY - held.start[1]);
    if (held && moved < CLICK_DISTANCE) {
      this.onPoint(this.pixelAt(event), true);
    }
  }
}
