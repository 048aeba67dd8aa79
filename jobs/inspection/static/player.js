// The player: looks at one clip frame by frame.
//
//   import { startPlayer } from "./player.js";
//   const player = startPlayer(element, source);   // fills `element`
//   player.stop();                                 // lets go of listeners, empties `element`
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

import { choice, drawIcon, helpDialog, iconButton } from "./controls.js";
import { fillFacts, make, number } from "./elements.js";
import { LAYERS } from "./layers.js";
import { blockFacts, clipFacts, frameFacts, layersPanel, panel } from "./panels.js";
import { FrameCache } from "./payloads.js";
import { Stage } from "./stage.js";
import { MEASURES, Timeline } from "./timeline.js";

const SPEEDS = [0.1, 0.25, 0.5, 1, 2, 4];
const ARROW_SCALES = [1, 2, 4, 8];
const AHEAD = 4; // frames that are read before they are needed while playing
export function startPlayer(element, source) {
  const player = new Player(source);
  element.replaceChildren(player.element);
  player.start();
  return player;
}

class Player {
  constructor(source) {
    this.clip = source.clip;
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
    this.state = {
      layers: Object.fromEntries(
        LAYERS.map(({ name, shown, opacity }) => [name, { shown: shown === true, opacity }]),
      ),
      lists: [0, 1],
      arrowScale: 1,
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
    this.timeline = new Timeline(this.clip, { onSeek: (index) => this.seek(index) });
    this.element = this.build();
    this.onKey = (event) => this.key(event);
  }

  start() {
    document.addEventListener("keydown", this.onKey);
    this.seek(this.first);
  }

  stop() {
    this.playing = false;
    document.removeEventListener("keydown", this.onKey);
    this.stage.stop();
    this.timeline.stop();
    this.element.remove();
  }

  build() {
    this.blockList = make("dl", { className: "facts" });
    this.blockHint = make("p", { className: "hint" });
    this.frameList = make("dl", { className: "facts" });
    const clipList = make("dl", { className: "facts" });
    fillFacts(clipList, clipFacts(this.clip));
    this.problem = make("p", { className: "problem", role: "alert", hidden: true });
    this.layers = layersPanel(this.clip, this.state, () => this.stage.redraw());
    this.layers.append(...this.viewChoices());
    const main = make("div", { className: "player-main" });
    main.append(this.stage.element, this.problem, this.transport(), this.timelineBox());
    const side = make("div", { className: "player-side" });
    side.append(
      panel("Block", "block", this.blockHint, this.blockList),
      this.layers,
      panel("Frame", "frame", this.frameList),
      panel("Clip", "clip", clipList),
    );
    this.help = helpDialog();
    return make("div", { className: "player" }, this.header(), main, side, this.help);
  }

  header() {
    const { clip } = this;
    const chips = [
      clip.label === null ? "" : make("span", { className: "chip" }, clip.label),
      make("span", { className: "chip quiet" }, `${clip.mode} vectors`),
      clip.exactness === "exact"
        ? make("span", { className: "chip good" }, "exact residual")
        : make("span", { className: "chip quiet", title: clip.exactness }, "no exact residual"),
    ];
    const help = make("button", { type: "button", className: "quiet", title: "Keyboard (?)" }, "?");
    help.setAttribute("aria-label", "Help: keyboard");
    help.addEventListener("click", () => this.help.showModal());
    const name = make("h1", { title: clip.name }, clip.name);
    const header = make("header", { className: "player-header" }, name, ...chips, help);
    if (clip.warnings.length > 0) {
      const list = make("ul", {}, ...clip.warnings.map((text) => make("li", {}, text)));
      header.append(make("div", { className: "warnings", role: "note" }, list));
    }
    return header;
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
      const options = ARROW_SCALES.map((scale) => [scale, `${scale} \u00d7 as long`]);
      const scales = choice("Arrows", options, 1, (value) => {
        this.state.arrowScale = Number(value);
        this.stage.redraw();
      });
      choices.push(scales);
    }
    return choices;
  }

  timelineBox() {
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

  key(event) {
    const { tagName, type } = event.target;
    const typing = tagName === "SELECT" || (tagName === "INPUT" && type !== "checkbox");
    if (event.ctrlKey || event.metaKey || event.altKey || typing || this.help.open) {
      return;
    }
    const pressed = tagName === "BUTTON" || tagName === "INPUT" || tagName === "SUMMARY";
    if (pressed && (event.key === " " || event.key === "Enter")) {
      return;
    }
    const action = this.actions()[event.key];
    if (action !== undefined) {
      event.preventDefault();
      action(event);
    }
  }

  actions() {
    const steps = (event, direction) => this.step(direction * (event.shiftKey ? 10 : 1));
    const boxes = [...this.layers.querySelectorAll("input[type=checkbox]")];
    const letters = {
      r: () => this.nextReferences(),
      l: () => this.toggleLoop(),
    };
    return {
      ...Object.fromEntries(boxes.map((box, position) => [position + 1, () => box.click()])),
      ...letters,
      R: letters.r,
      L: letters.l,
      " ": () => this.toggle(),
      ArrowLeft: (event) => steps(event, -1),
      ArrowRight: (event) => steps(event, 1),
      Home: () => this.step(-Infinity),
      End: () => this.step(Infinity),
      "[": () => this.stepToIntra(-1),
      "]": () => this.stepToIntra(1),
      "+": () => this.stage.zoomBy(1.5),
      "=": () => this.stage.zoomBy(1.5),
      "-": () => this.stage.zoomBy(1 / 1.5),
      0: () => this.fit(),
      Escape: () => this.lookAt(null, true),
      "?": () => this.help.showModal(),
    };
  }

  nextReferences() {
    if (this.references) {
      this.references.selectedIndex = (this.references.selectedIndex + 1) % 3;
      this.references.dispatchEvent(new Event("change"));
    }
  }
}
