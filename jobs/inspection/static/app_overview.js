// What a split is made of: classes, motion, settings.

import { hashOf } from "./app_address.js";
import { ask } from "./app_api.js";
import { alertBox, bars, count, Latest } from "./app_widgets.js";
import { fillFacts, make } from "./elements.js";

const CLASSES_SHOWN = 60;

export class OverviewView {
  constructor(app, { split }) {
    this.app = app;
    this.split = split;
    this.latest = new Latest();
    this.element = make("section", { className: "app-overview" });
  }

  stop() {
    this.latest.stop();
  }

  async update() {
    const signal = this.latest.start();
    try {
      const facts = await this.app.splitFacts(this.split);
      const motion = this.panel("Motion", "Mean length of a sample's vectors, in pixels.");
      this.element.replaceChildren(
        this.aboutPanel(facts),
        this.settingsPanel(facts),
        motion,
        ...(facts.classes.length > 0 ? [this.classPanel(facts)] : []),
      );
      const path = `splits/${encodeURIComponent(this.split)}/motion`;
      motion.append(this.motionBars(await ask(path, {}, { signal })));
    } catch (error) {
      if (error.name !== "AbortError") {
        this.element.append(alertBox(error.message));
      }
    }
  }

  panel(title, note = "") {
    const panel = make("section", { className: "app-panel" }, make("h2", {}, title));
    if (note) {
      panel.append(make("p", { className: "app-note" }, note));
    }
    return panel;
  }

  aboutPanel(facts) {
    const { target } = this.app;
    const list = make("dl", { className: "app-facts" });
    const rows = [
      [target.kind === "shard" ? "Shard" : "Dataset", target.target],
      ["Split", facts.split],
      ["Samples", count(facts.samples), "samples"],
      ["Shards", count(facts.shards)],
      ["Planes", facts.planes.join(", ")],
    ];
    if (target.unfinished.length > 0) {
      rows.push(["Unfinished splits", target.unfinished.join(", ")]);
    }
    fillFacts(list, rows);
    const panel = this.panel("Contents");
    panel.append(list);
    return panel;
  }

  classPanel(facts) {
    const sorted = [...facts.classes].sort((one, other) => other.samples - one.samples);
    const note = facts.is_whole ? "" : "Counts are those of the whole split.";
    const panel = this.panel(`Classes (${count(sorted.length)})`, note);
    const rows = sorted.map(({ name, samples }) => ({
      name,
      count: samples,
      href: hashOf(["samples"], { split: this.split, label: name }),
    }));
    if (facts.unlabelled > 0) {
      const href = hashOf(["samples"], { split: this.split, label: "" });
      rows.push({ name: "no class", count: facts.unlabelled, href });
    }
    panel.append(bars(rows.slice(0, CLASSES_SHOWN), { title: "Samples of each class" }));
    if (rows.length > CLASSES_SHOWN) {
      const rest = bars(rows.slice(CLASSES_SHOWN), { title: "Samples of the other classes" });
      const others = `${count(rows.length - CLASSES_SHOWN)} more`;
      panel.append(make("details", {}, make("summary", {}, others), rest));
    }
    return panel;
  }

  motionBars({ edges, counts }) {
    const rows = edges.map((edge, bin) => {
      const next = edges[bin + 1];
      const range = { motion_min: edge > 0 ? edge : null, motion_max: next };
      return {
        name: next === undefined ? `${edge} and more` : `${edge} \u2013 ${next}`,
        count: counts[bin],
        href: hashOf(["samples"], { split: this.split, ...range }),
      };
    });
    return bars(rows, { title: "Samples by mean motion" });
  }

  settingsPanel(facts) {
    const list = make("dl", { className: "app-facts" });
    const rows = Object.entries(facts.settings).map(([name, value]) => [
      name,
      typeof value === "string" ? value : JSON.stringify(value),
    ]);
    fillFacts(list, rows);
    const panel = this.panel("Settings", "What the dataset was made with.");
    panel.append(list);
    return panel;
  }
}
