// A page of the samples that match what is asked for.

import { hashOf } from "./app_address.js";
import { address, ask, clipPath } from "./app_api.js";
import { afterPause, alertBox, count, counted, emptyBox, Latest, pager } from "./app_widgets.js";
import { make, number } from "./elements.js";

export const PAGE = 48;

// What a search is made of, in the address and in the question to the server.
export const SEARCHED = ["query", "label", "motion_min", "motion_max", "where", "order"];

const ORDERS = [
  ["", "As stored"],
  ["-mean_motion_pixels", "Most motion"],
  ["mean_motion_pixels", "Least motion"],
  ["-duration_seconds", "Longest"],
  ["duration_seconds", "Shortest"],
  ["-zero_residual_share", "Least residual"],
  ["zero_residual_share", "Most residual"],
  ["-damaged_frames", "Most damage"],
];

export function questionOf(parameters) {
  return Object.fromEntries(
    SEARCHED.filter((name) => name in parameters).map((name) => [name, parameters[name]]),
  );
}

// A fact of a sample, or nothing: a number that is not known is not zero.
function known(value, text) {
  return value === null || value === undefined ? [] : [make("span", {}, text(value))];
}

export class SamplesView {
  constructor(app, { split }) {
    this.app = app;
    this.split = split;
    this.latest = new Latest();
    this.parameters = {};
    this.fields = {};
    this.form = this.makeForm();
    this.summary = make("p", { className: "app-summary", role: "status" });
    this.results = make("div", { className: "app-results" });
    this.element = make(
      "section",
      { className: "app-samples" },
      this.form,
      this.summary,
      this.results,
    );
    this.onKey = (event) => {
      const isTyped = event.target.matches?.("input, select, textarea");
      if (event.key === "/" && !isTyped && !event.ctrlKey && !event.metaKey) {
        event.preventDefault();
        this.fields.query.focus();
      }
    };
    document.addEventListener("keydown", this.onKey);
    this.offerClasses();
  }

  stop() {
    this.latest.stop();
    this.search.cancel();
    document.removeEventListener("keydown", this.onKey);
  }

  makeForm() {
    this.search = afterPause(() => this.submit());
    const field = (name, title, properties) => {
      const input = make("input", { id: `field-${name}`, autocomplete: "off", ...properties });
      input.addEventListener("input", this.search);
      this.fields[name] = input;
      return make("label", { className: `app-field app-field-${name}` }, title, input);
    };
    const choice = (name, title, options) => {
      const select = make("select", { id: `field-${name}` }, ...options);
      select.addEventListener("change", () => this.submit());
      this.fields[name] = select;
      return make("label", { className: `app-field app-field-${name}` }, title, select);
    };
    const motion = { type: "number", min: "0", step: "any", inputMode: "decimal" };
    const more = make(
      "div",
      { className: "app-more", id: "more" },
      choice("label", "Class", [make("option", { value: "" }, "All")]),
      make(
        "fieldset",
        { className: "app-field app-range" },
        make("legend", {}, "Motion, pixels"),
        field("motion_min", "from", { ...motion, placeholder: "0" }),
        field("motion_max", "to", { ...motion, placeholder: "any" }),
      ),
      choice(
        "order",
        "Order",
        ORDERS.map(([value, text]) => make("option", { value }, text)),
      ),
      field("where", "Condition", {
        placeholder: 'duration_seconds > 4 and codec == "h264"',
        spellcheck: false,
      }),
    );
    const toggle = make(
      "button",
      { type: "button", className: "app-button app-toggle", ariaExpanded: "false" },
      "Filters",
    );
    this.toggle = toggle;
    toggle.setAttribute("aria-controls", "more");
    toggle.addEventListener("click", () => {
      const isOpen = more.classList.toggle("is-open");
      toggle.setAttribute("aria-expanded", String(isOpen));
    });
    const slash = matchMedia("(hover: hover)").matches ? " ( / )" : "";
    const form = make(
      "form",
      { className: "app-search", role: "search" },
      field("query", "Search", { type: "search", placeholder: `Key or file name${slash}` }),
      toggle,
      more,
    );
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.submit();
    });
    return form;
  }

  // The classes, with how many samples each has.
  async offerClasses() {
    try {
      const facts = await this.app.splitFacts(this.split);
      const options = facts.classes.map(({ name, samples }) =>
        make("option", { value: `=${name}` }, `${name} (${count(samples)})`),
      );
      if (facts.unlabelled > 0 && facts.classes.length > 0) {
        options.push(make("option", { value: "=" }, `no class (${count(facts.unlabelled)})`));
      }
      this.fields.label.append(...options);
      this.fields.label.closest("label").hidden = options.length === 0;
      this.fillForm();
    } catch {
      // The results say what is wrong.
    }
  }

  fillForm() {
    for (const [name, field] of Object.entries(this.fields)) {
      const value = this.parameters[name];
      const shown = name === "label" && value !== undefined ? `=${value}` : (value ?? "");
      if (field !== document.activeElement && field.value !== shown) {
        field.value = shown;
      }
    }
  }

  // On a phone filters are folded away: say how many are set.
  tellFilters() {
    const set = SEARCHED.filter((name) => name !== "query" && name in this.parameters).length;
    this.toggle.textContent = set > 0 ? `Filters (${set})` : "Filters";
  }

  submit() {
    this.search.cancel();
    const asked = { split: this.split };
    for (const [name, field] of Object.entries(this.fields)) {
      const value = name === "label" ? field.value : field.value.trim();
      if (value !== "") {
        asked[name] = name === "label" ? value.slice(1) : value; // behind the "=" of an option
      }
    }
    this.app.go(["samples"], asked, { replace: true });
  }

  async update(parameters) {
    this.parameters = parameters;
    this.fillForm();
    this.tellFilters();
    const signal = this.latest.start();
    this.results.setAttribute("aria-busy", "true");
    const offset = Math.max(0, Math.trunc(Number(parameters.offset)) || 0);
    const question = { ...questionOf(parameters), split: this.split, offset, limit: PAGE };
    try {
      const found = await ask("samples", question, { signal });
      this.draw(found);
    } catch (error) {
      if (error.name === "AbortError") {
        return;
      }
      this.summary.textContent = "";
      this.results.replaceChildren(alertBox(error.message));
    }
    this.results.removeAttribute("aria-busy");
  }

  draw(found) {
    const { total, of, offset, samples } = found;
    const isAll = total === of;
    this.summary.textContent = isAll
      ? counted(of, "sample")
      : `${count(total)} of ${counted(of, "sample")} match`;
    if (SEARCHED.some((name) => name in this.parameters)) {
      const clear = make("a", { href: hashOf(["samples"], { split: this.split }) }, "Clear");
      this.summary.append(" \u00b7 ", clear);
    }
    if (samples.length === 0) {
      this.results.replaceChildren(emptyBox(...this.whyNone(of)));
      return;
    }
    const cards = samples.map((sample, place) => this.card(sample, offset + place));
    const link = (to) =>
      hashOf(["samples"], { ...this.parameters, split: this.split, offset: to > 0 ? to : null });
    this.results.replaceChildren(
      make("ul", { className: "app-grid" }, ...cards),
      pager({ offset, limit: PAGE, total, link }),
    );
  }

  whyNone(numSamples) {
    if (numSamples > 0) {
      return ["No sample is like that."];
    }
    const what = this.app.target.kind === "shard" ? "shard" : "split";
    const href = hashOf(["failures"], { split: this.split });
    const failures = make("a", { href }, "Failures");
    return [`This ${what} holds no sample. `, failures, " says which videos became none, and why."];
  }

  card(sample, rank) {
    const { position } = sample;
    const picture = make("img", {
      src: address(`thumbnails/${clipPath(this.split, position)}`),
      alt: "",
      loading: "lazy",
      decoding: "async",
      width: sample.width,
      height: sample.height,
    });
    const frame = make("span", { className: "app-thumb" }, picture);
    picture.addEventListener("error", () => frame.replaceChildren("no picture"));
    const marks = this.marks(sample);
    const rest = { ...questionOf(this.parameters), at: rank };
    const link = make(
      "a",
      { className: "app-card", href: hashOf(["clip", this.split, position], rest) },
      frame,
      make("strong", { className: "app-card-label" }, sample.label ?? sample.source ?? sample.key),
      make("span", { className: "app-card-key", title: sample.source ?? "" }, sample.key),
      make(
        "span",
        { className: "app-card-facts" },
        ...known(sample.duration_seconds, (seconds) => `${number(seconds, 1)} s`),
        ...known(sample.frames, (frames) => counted(frames, "frame")),
        ...known(sample.mean_motion_pixels, (pixels) => `${number(pixels)} px`),
      ),
      ...marks,
    );
    link.dataset.key = sample.key;
    return make("li", {}, link);
  }

  marks(sample) {
    const marks = [];
    if (sample.damaged_frames > 0) {
      marks.push(counted(sample.damaged_frames, "damaged frame"));
    }
    if (sample.scene_cuts > 0) {
      marks.push(counted(sample.scene_cuts, "scene cut"));
    }
    return marks.map((text) => make("span", { className: "app-mark" }, text));
  }
}
