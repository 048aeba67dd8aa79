// The app: pages through a dataset, searches it, and shows single clips in the player.
//
// What is shown is in the address behind '#', so that it can be kept, shared and gone back to:
//
//   #/samples?split=train&query=...     a page of samples; see app_samples.js
//   #/failures?split=train&reason=...   videos that became no samples
//   #/overview?split=train              classes, motion, settings
//   #/clip/train/17?query=...&frame=3   a sample, with the search that it was found by
//   #/?frame=3                          of a target that is one clip
//
// Names and labels are hostile: they only ever become text nodes.

import { hashOf, readHash } from "./app_address.js";
import { ask } from "./app_api.js";
import { ClipView } from "./app_clip.js";
import { FailuresView } from "./app_failures.js";
import { OverviewView } from "./app_overview.js";
import { SamplesView } from "./app_samples.js";
import { make } from "./elements.js";

const VIEWS = { samples: SamplesView, failures: FailuresView, overview: OverviewView };
const TITLES = { samples: "Samples", failures: "Failures", overview: "Overview" };

class App {
  constructor(target, { bar, main }) {
    this.target = target;
    this.bar = bar;
    this.main = main;
    this.view = null;
    this.facts = new Map();
    window.addEventListener("hashchange", () => this.show());
  }

  // Go to an address behind '#'. `replace` leaves no step for the browser's back button.
  go(place, parameters, { replace = false } = {}) {
    const hash = hashOf(place, parameters);
    if (replace) {
      history.replaceState(null, "", hash);
      this.show();
    } else {
      location.hash = hash;
    }
  }

  // The facts of a split, asked for once.
  splitFacts(split) {
    if (!this.facts.has(split)) {
      const asked = ask(`splits/${encodeURIComponent(split)}`);
      asked.catch(() => this.facts.delete(split));
      this.facts.set(split, asked);
    }
    return this.facts.get(split);
  }

  show() {
    const { place, parameters } = readHash();
    const [name, split, position] = place;
    if (this.target.is_clip) {
      this.mount(ClipView, "clip", { split: "-", position: 0, parameters });
    } else if (name === "clip" && position !== undefined) {
      this.mount(ClipView, "clip", { split, position: Number(position), parameters });
    } else {
      const known = Object.hasOwn(VIEWS, name) ? name : "samples";
      const shown = parameters.split ?? this.target.splits[0];
      this.mount(VIEWS[known], known, { split: shown, parameters: { ...parameters, split: shown } });
    }
  }

  // A view of the same kind and split is told what has changed; another takes its place.
  mount(View, name, asked) {
    const key = `${name} ${asked.split} ${asked.position ?? ""}`;
    this.drawBar(name, asked);
    if (this.view?.key === key) {
      this.view.update(asked.parameters);
      return;
    }
    this.view?.stop();
    this.view = new View(this, asked);
    this.view.key = key;
    this.main.replaceChildren(this.view.element);
    window.scrollTo(0, 0);
    this.view.update(asked.parameters);
  }

  drawBar(name, { split }) {
    const title = make("a", { className: "app-name", href: "#/" }, "gopstream");
    const target = make("span", { className: "app-target", title: this.target.target });
    // Of a long path the end tells more than the beginning.
    target.append(make("bdi", {}, this.target.target));
    this.bar.replaceChildren(title, target);
    if (this.target.is_clip) {
      return;
    }
    const tabs = Object.entries(TITLES).map(([view, text]) => {
      const tab = make("a", { href: hashOf([view], { split }) }, text);
      if (view === name || (name === "clip" && view === "samples")) {
        tab.setAttribute("aria-current", view === name ? "page" : "true");
      }
      return tab;
    });
    this.bar.append(make("nav", { className: "app-tabs", ariaLabel: "Views" }, ...tabs));
    if (this.target.splits.length > 1) {
      this.bar.append(this.splitChoice(name, split));
    }
  }

  splitChoice(name, split) {
    const options = this.target.splits.map((each) =>
      make("option", { value: each, selected: each === split }, each),
    );
    const choice = make("select", { id: "split", ariaLabel: "Split" }, ...options);
    choice.addEventListener("change", () =>
      this.go([name in VIEWS ? name : "samples"], { split: choice.value }),
    );
    return make("label", { className: "app-split" }, "Split", choice);
  }
}

async function start() {
  const bar = document.getElementById("bar");
  const main = document.getElementById("main");
  try {
    const target = await ask("target");
    document.title = `${target.target} - gopstream view`;
    new App(target, { bar, main }).show();
  } catch (error) {
    main.replaceChildren(make("p", { className: "app-alert", role: "alert" }, error.message));
  }
}

start();
