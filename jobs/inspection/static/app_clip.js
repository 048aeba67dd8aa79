// One clip in the player, with the way to its neighbours among the samples that were found.

import { frameOf, hashOf, readHash } from "./app_address.js";
import { ClipSource, ask, clipPath } from "./app_api.js";
import { PAGE, SEARCHED, questionOf } from "./app_samples.js";
import { alertBox, count, Latest } from "./app_widgets.js";
import { make } from "./elements.js";
import { startPlayer } from "./player.js";

export class ClipView {
  constructor(app, { split, position }) {
    this.app = app;
    this.split = split;
    this.position = position;
    this.latest = new Latest();
    this.source = null;
    this.player = null;
    this.head = make("div", { className: "app-clip-head" });
    this.body = make("div", { className: "app-clip-body" });
    this.element = make("section", { className: "app-clip" }, this.head, this.body);
    this.onKey = (event) => this.press(event);
    document.addEventListener("keydown", this.onKey);
    this.links = {};
  }

  async update({ frame, ...parameters }) {
    this.parameters = parameters; // the search; neighbours do not begin at this frame
    const signal = this.latest.start();
    if (!this.app.target.is_clip) {
      this.drawHead(parameters);
      this.findNeighbours(parameters, signal);
    }
    if (this.player !== null) {
      if (frameOf({ frame }) !== null) {
        this.player.seek(frameOf({ frame }));
      }
      return;
    }
    this.body.replaceChildren(make("p", { className: "app-wait" }, "Opening\u2026"));
    try {
      const clip = await ask(`clips/${clipPath(this.split, this.position)}`, {}, { signal });
      this.source = new ClipSource(this.split, this.position, clip);
      const stage = make("div", { className: "app-player" });
      this.body.replaceChildren(stage);
      this.player = startPlayer(stage, this.source, {
        frame: frameOf({ frame }),
        onFrame: (index) => this.noteFrame(index),
      });
      // A frame that cannot be read is told when it is to be shown.
      this.source.fillTimeline(() => this.player.useNumbers()).catch(() => {});
    } catch (error) {
      if (error.name !== "AbortError") {
        this.body.replaceChildren(alertBox(error.message));
      }
    }
  }

  // The address leads back to the frame that is looked at; it makes no steps for going back.
  noteFrame(index) {
    const { place, parameters } = readHash();
    const isHere = this.app.target.is_clip || Number(place[2]) === this.position;
    if (isHere && parameters.frame !== String(index)) {
      history.replaceState(null, "", hashOf(place, { ...parameters, frame: index }));
    }
  }

  stop() {
    this.latest.stop();
    document.removeEventListener("keydown", this.onKey);
    this.player?.stop();
    this.source?.stop();
  }

  drawHead(parameters, { before, after, rank, total } = {}) {
    const offset = Math.floor(this.rank(parameters) / PAGE) * PAGE || null;
    const list = { ...questionOf(parameters), split: this.split, offset };
    this.links = {
      up: hashOf(["samples"], list),
      before: before && this.neighbour(before),
      after: after && this.neighbour(after),
    };
    const step = (text, name, href) =>
      href
        ? make("a", { className: "app-button", href, rel: name, title: `${text} (${text[0]})` }, text)
        : make("span", { className: "app-button is-off" }, text);
    this.head.replaceChildren(
      make(
        "a",
        { className: "app-button", href: this.links.up, rel: "up", title: "Back to the samples (U)" },
        "\u2190 Samples",
      ),
      make(
        "span",
        { className: "app-rank" },
        total === undefined ? "" : `${count(rank + 1)} of ${count(total)}`,
      ),
      step("Previous", "prev", this.links.before),
      step("Next", "next", this.links.after),
    );
  }

  // Its place among the samples that were found.
  rank(parameters) {
    const isSearched = SEARCHED.some((name) => name in parameters);
    return isSearched ? Number(parameters.at ?? NaN) : this.position;
  }

  neighbour({ position, rank }) {
    return hashOf(["clip", this.split, position], { ...this.parameters, at: rank });
  }

  // The samples before and after this one in the search that it was found by.
  async findNeighbours(parameters, signal) {
    const rank = this.rank(parameters);
    if (!Number.isInteger(rank) || rank < 0) {
      return; // an address without its place in the search, perhaps shortened by hand
    }
    const offset = Math.max(0, rank - 1);
    try {
      const found = await ask(
        "samples",
        { ...questionOf(parameters), split: this.split, offset, limit: rank - offset + 2 },
        { signal },
      );
      const at = (place) => {
        const sample = found.samples[place - offset];
        return place >= 0 && sample ? { position: sample.position, rank: place } : undefined;
      };
      if (at(rank)?.position === this.position) {
        const { total } = found;
        this.drawHead(parameters, { before: at(rank - 1), after: at(rank + 1), rank, total });
      }
    } catch (error) {
      if (error.name !== "AbortError") {
        this.head.append(alertBox(error.message));
      }
    }
  }

  press(event) {
    const isTyped = event.target.matches?.("input:not([type=range]), select, textarea");
    if (event.defaultPrevented || isTyped || event.ctrlKey || event.metaKey || event.altKey) {
      return;
    }
    const { up, before, after } = this.links;
    const to = { u: up, p: before, n: after }[event.key.toLowerCase()];
    if (to && document.querySelector("dialog[open]") === null) {
      event.preventDefault();
      location.hash = to;
    }
  }
}
