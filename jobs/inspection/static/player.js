// The player: looks at one clip frame by frame.
//
//   import { startPlayer } from "./player.js";
//   const player = startPlayer(element, source, { frame, onFrame });   // fills `element`
//   player.stop();   // lets go of listeners, empties `element`
//
// `frame` is the one to begin with, or null: the first that is predicted, for I-frames have no
// vectors. `onFrame(i)` is told, soon, which frame is looked at; not while it plays.
//
// `source` is where the clip comes from; the page reads it from itself, the app from its server:
//
//   source.clip      clip_payload(facts) of clip_payload.py; where its `statistics` is a list of
//                    those of all frames, the timeline is full at once, else it fills with them
//   source.frame(i)  a Promise of frame_payload(frame, facts), for frames in any order, rarely
//                    twice for the same one; a rejected promise's message is shown
//
// Arrays travel as {dtype, shape, data}: base64 of zlib of little-endian bytes (payloads.js).
// Names and labels are hostile: they only ever become text nodes.
// A page needs player.css, <meta name="viewport"> and, in its policy, img-src data:.

import { choice, drawIcon, helpDialog, iconButton, keyAction } from "./controls.js";
import { fillFacts, make, number } from "./elements.js";
import { ARROW_SCALES, LAYERS } from "./layers.js";
import { blockFacts, clipPanel, frameFacts, layersPanel, panel, playerHeader } from "./panels.js";
import { FrameCache } from "./payloads.js";
import { Stage } from "./stage.js";
import { MEASURES, Timeline } from "./timeline.js";

const SPEEDS = [0.1, 0.25, 0.5, 1, 2, 4];
const AHEAD = 4; // frames that are read before they are needed while playing
const TOLD_AFTER = 200; // milliseconds: browsers limit how often an address may change

export function startPlayer(element, source, { frame = null, onFrame = () => {} } = {}) {
  const player = new Player(source, onFrame);
  element.replaceChildren(player.element);
  player.start(frame);
  return player;
}

class Player {
  constructor(source, onFrame) {
    this.clip = source.clip;
    this.onFrame = onFrame;
    this.frames = new FrameCache(source);
    this.first = this.clip.first;
    this.last = this.clip.last;
    this.index = this.first; // the frame that was asked for last
    this.frame = null; // the frame that is shown
    this.point = null;
    this.chosen = false; // by a click: the pointer's moves no longer change the block
    this.playing = false;
    this.loop = true;
    this.speed = 1;
    this.timeline = new Timeline(this.clip, { onSeek: (index) => this.seek(index) });
    this.state = {
      layers: Object.fromEntries(
        LAYERS.map(({ name, shown, opacity }) => [name, { shown: shown === true, opacity }]),
      ),
      lists: [0, 1],
      arrowScale: null,
      statistics: this.timeline.statistics,
    };
    this.stage = new Stage(this.clip, {
      state: this.state,
      onPoint: (point, clicked) => this.lookAt(point, clicked),
      onZoom: (scale) => {
        this.zoomNote.textContent = `${Math.round(100 * scale)} %`;
      },
      onTold: (told) => {
        for (const note of this.layers.querySelectorAll("[data-told]")) {
          note.textContent = told[note.dataset.told] ?? "";
        }
      },
    });
    this.element = this.build();
    this.sizes = new ResizeObserver(() => this.leaveRoom());
    this.onKey = (event) => {
      const action = keyAction(this, event);
      if (action !== undefined) {
        event.preventDefault();
        action();
      }
    };
  }

  start(frame) {
    document.addEventListener("keydown", this.onKey);
    this.sizes.observe(this.element);
    this.seek(frame ?? this.firstWithVectors());
  }

  firstWithVectors() {
    const kinds = this.clip.num_lists > 0 ? this.clip.kinds.slice(this.first, this.last + 1) : "";
    return this.first + Math.max(0, kinds.search(/[PB]/));
  }

  // More numbers of frames are known.
  useNumbers() {
    this.timeline.draw();
    this.stage.redraw();
  }

  stop() {
    this.playing = false;
    clearTimeout(this.telling);
    this.onFrame = () => {}; // a frame may still come
    this.sizes.disconnect();
    document.removeEventListener("keydown", this.onKey);
    this.stage.stop();
    this.timeline.stop();
    this.element.remove();
  }

  build() {
    this.blockList = make("dl", { className: "facts" });
    this.blockHint = make("p", { className: "hint" });
    this.frameList = make("dl", { className: "facts" });
    this.problem = make("p", { className: "problem", role: "alert", hidden: true });
    this.layers = layersPanel(this.clip, this.state, () => this.stage.redraw());
    this.layers.append(...this.viewChoices());
    const main = make("div", { className: "player-main" });
    this.timelineBox = this.makeTimelineBox();
    main.append(this.stage.element, this.problem, this.transport(), this.timelineBox);
    const side = make("div", { className: "player-side" });
    side.append(
      panel("Block", "block", this.blockHint, this.blockList),
      this.layers,
      panel("Frame", "frame", this.frameList),
      clipPanel(this.clip),
    );
    this.help = helpDialog(this.clip);
    const header = playerHeader(this.clip, this.help);
    return make("div", { className: "player" }, header, main, side, this.help);
  }

  // The picture takes what the header and the timeline leave of the window; see player.css.
  leaveRoom() {
    const stage = this.stage.element.getBoundingClientRect();
    const below = this.timelineBox.getBoundingClientRect().bottom - stage.bottom;
    const around = Math.ceil(stage.top + window.scrollY + below);
    this.element.style.setProperty("--around", `${around}px`);
  }

  transport() {
    this.playButton = iconButton("play", "Play (Space)", () => this.toggle());
    this.entry = make("input", { type: "number", min: this.first, max: this.last });
    this.entry.setAttribute("aria-label", "Frame number");
    this.entry.addEventListener("change", () => this.seek(Number(this.entry.value)));
    this.badge = make("span", { className: "badge" });
    this.clock = make("span", { className: "clock" });
    this.zoomNote = make("output", { className: "zoom-note" }, "fit");
    this.loopButton = iconButton("loop", "Play again from the start (L)", () => this.toggleLoop());
    this.loopButton.setAttribute("aria-pressed", "true");
    const steps = make("div", { className: "group" });
    steps.append(
      iconButton("first", "First frame (Home)", () => this.step(-Infinity)),
      iconButton("back", "Frame before (Left)", () => this.step(-1)),
      this.playButton,
      iconButton("forward", "Next frame (Right)", () => this.step(1)),
      iconButton("last", "Last frame (End)", () => this.step(Infinity)),
      this.loopButton,
    );
    const place = make("div", { className: "group place" });
    place.append(this.badge, this.entry, `of ${this.first} to ${this.last}`, this.clock);
    const zoom = make("div", { className: "group" });
    zoom.append(
      iconButton("less", "Zoom out (\u2212)", () => this.stage.zoomBy(1 / 1.5)),
      this.zoomNote,
      iconButton("more", "Zoom in (+)", () => this.stage.zoomBy(1.5)),
      iconButton("fit", "Fit (0)", () => this.fit()),
    );
    const speed = choice("Speed", SPEEDS.map((one) => [one, `${one} \u00d7`]), 1, (value) => {
      this.speed = Number(value);
    });
    return make("div", { className: "transport" }, steps, place, speed, zoom);
  }

  viewChoices() {
    const choices = [];
    if (this.clip.num_lists > 1) {
      const options = [["0,1", "past and future"], ["0", "past"], ["1", "future"]];
      const references = choice("References", options, "0,1", (value) => {
        this.state.lists = value.split(",").map(Number);
        this.stage.redraw();
      });
      this.references = references.querySelector("select");
      choices.push(references);
    }
    if (this.clip.planes.includes("motion") || this.clip.planes.includes("vectors")) {
      const fixed = ARROW_SCALES.map((scale) => [scale, `${scale} \u00d7 as long`]);
      const options = [["", "automatic length"], ...fixed];
      const scales = choice("Arrows", options, "", (value) => {
        this.state.arrowScale = value === "" ? null : Number(value);
        this.stage.redraw();
      });
      choices.push(scales);
    }
    return choices;
  }

  makeTimelineBox() {
    const options = MEASURES.filter(({ plane }) => this.clip.planes.includes(plane));
    const head = make("div", { className: "timeline-head" });
    if (options.length > 0) {
      const titles = options.map(({ name, title }) => [name, title]);
      const chosen = this.timeline.measure.name;
      head.append(choice("Timeline", titles, chosen, (name) => this.timeline.use(name)));
    }
    head.append(this.timeline.note);
    return make("div", { className: "timeline-box" }, head, this.timeline.element);
  }

  // ---- frames ----

  // Show a frame as soon as it is read, unless another was asked for meanwhile.
  async seek(index) {
    const wanted = Math.min(Math.max(Math.round(index) || 0, this.first), this.last);
    this.index = wanted;
    this.element.setAttribute("aria-busy", "true");
    try {
      const frame = await this.frames.get(wanted);
      if (this.index === wanted) {
        this.show(frame);
      }
    } catch (error) {
      if (this.index === wanted) {
        this.pause();
        this.problem.textContent = `Frame ${wanted} cannot be shown: ${error.message}`;
        this.problem.hidden = false;
      }
    } finally {
      if (this.index === wanted) {
        this.element.removeAttribute("aria-busy");
      }
    }
  }

  show(frame) {
    this.frame = frame;
    this.problem.hidden = true;
    this.element.dataset.frame = frame.index;
    this.entry.value = frame.index;
    this.badge.textContent = frame.kind;
    this.badge.dataset.kind = frame.kind;
    this.clock.textContent = frame.time === null ? "" : `${number(frame.time, 3)} s`;
    fillFacts(this.frameList, frameFacts(this.clip, frame));
    this.stage.show(frame);
    this.timeline.show(frame);
    this.showBlock();
    this.tellFrame();
  }

  tellFrame() {
    clearTimeout(this.telling);
    if (!this.playing) {
      this.telling = setTimeout(() => this.onFrame(this.index), TOLD_AFTER);
    }
  }

  step(count) {
    this.pause();
    this.seek(this.index + count);
  }

  // Go to the nearest I-frame before or after.
  stepToIntra(direction) {
    let index = this.index + direction;
    while (index > this.first && index < this.last && this.clip.kinds[index] !== "I") {
      index += direction;
    }
    this.step(index - this.index);
  }

  // ---- playing ----

  toggle() {
    if (this.playing) {
      this.pause();
    } else {
      this.play();
    }
  }

  pause() {
    this.playing = false;
    this.showPlaying();
    this.tellFrame();
  }

  showPlaying() {
    const title = this.playing ? "Pause (Space)" : "Play (Space)";
    drawIcon(this.playButton, this.playing ? "pause" : "play");
    this.playButton.title = title;
    this.playButton.setAttribute("aria-label", title);
  }

  toggleLoop() {
    this.loop = !this.loop;
    this.loopButton.setAttribute("aria-pressed", String(this.loop));
  }

  // Every frame is shown, late where reading is slow: leaving frames out would hide them.
  async play() {
    const run = {};
    this.run = run;
    this.playing = true;
    this.showPlaying();
    if (this.index === this.last) {
      await this.seek(this.first);
    }
    let due = performance.now();
    while (this.playing && this.run === run) {
      if (this.index === this.last && !this.loop) {
        this.pause();
        return;
      }
      const following = this.index === this.last ? this.first : this.index + 1;
      for (let next = following; next < following + AHEAD && next <= this.last; next += 1) {
        this.frames.get(next).catch(() => {}); // is told when it is due
      }
      due = Math.max(due + (1000 * this.frameSeconds(this.index)) / this.speed, performance.now());
      await new Promise((done) => setTimeout(done, due - performance.now()));
      if (this.playing && this.run === run) {
        await this.seek(following);
      }
    }
  }

  frameSeconds(index) {
    const { times } = this.clip;
    const long = (times[index + 1] ?? NaN) - (times[index] ?? NaN);
    return long > 0 ? Math.min(long, 2) : 0.04;
  }

  // ---- the block under the pointer ----

  lookAt(point, clicked) {
    if (clicked) {
      this.chosen = point !== null && !(this.chosen && this.sameBlock(point));
      this.point = point;
    } else if (!this.chosen) {
      this.point = point;
    }
    this.showBlock();
  }

  sameBlock(point) {
    const block = ([x, y]) => `${Math.floor(x / this.clip.block)} ${Math.floor(y / this.clip.block)}`;
    return this.point !== null && block(this.point) === block(point);
  }

  showBlock() {
    const looks = this.point !== null && this.frame !== null;
    const { rows, rectangle } = looks
      ? blockFacts(this.clip, this.frame, this.point)
      : { rows: [], rectangle: null };
    fillFacts(this.blockList, rows);
    this.blockHint.textContent = !looks
      ? "Point at the picture, or tap it, to read a block."
      : this.chosen
        ? "Chosen; click it again or press Esc to let go."
        : "Click to keep this block.";
    this.stage.mark(rectangle);
  }

  // ---- keyboard ----

  fit() {
    this.stage.zoomBy(0);
    this.zoomNote.textContent = "fit";
  }

  nextReferences() {
    if (this.references) {
      this.references.selectedIndex = (this.references.selectedIndex + 1) % 3;
      this.references.dispatchEvent(new Event("change"));
    }
  }
}
