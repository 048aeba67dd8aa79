// The videos that became no samples, by reason.

import { hashOf } from "./app_address.js";
import { ask } from "./app_api.js";
import { afterPause, alertBox, count, counted, emptyBox, Latest, pager } from "./app_widgets.js";
import { make } from "./elements.js";

const PAGE = 60;

export class FailuresView {
  constructor(app, { split }) {
    this.app = app;
    this.split = split;
    this.latest = new Latest();
    this.search = afterPause(() => this.submit());
    this.query = make("input", {
      type: "search",
      id: "field-query",
      autocomplete: "off",
      placeholder: "File name, key or message",
    });
    this.query.addEventListener("input", this.search);
    const form = make(
      "form",
      { className: "app-search", role: "search" },
      make("label", { className: "app-field app-field-query" }, "Search", this.query),
    );
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.submit();
    });
    this.summary = make("p", { className: "app-summary", role: "status" });
    this.reasons = make("div", { className: "app-reasons" });
    this.results = make("div", { className: "app-results" });
    this.element = make(
      "section",
      { className: "app-failures" },
      form,
      this.reasons,
      this.summary,
      this.results,
    );
  }

  stop() {
    this.latest.stop();
    this.search.cancel();
  }

  submit() {
    this.search.cancel();
    const { reason } = this.parameters;
    const query = this.query.value.trim() || null;
    this.app.go(["failures"], { split: this.split, query, reason }, { replace: true });
  }

  async update(parameters) {
    this.parameters = parameters;
    if (this.query !== document.activeElement) {
      this.query.value = parameters.query ?? "";
    }
    const signal = this.latest.start();
    const offset = Math.max(0, Math.trunc(Number(parameters.offset)) || 0);
    const { query, reason } = parameters;
    const question = { split: this.split, query, reason, offset, limit: PAGE };
    try {
      this.draw(await ask("failures", question, { signal }));
    } catch (error) {
      if (error.name !== "AbortError") {
        this.summary.textContent = "";
        this.results.replaceChildren(alertBox(error.message));
      }
    }
  }

  draw({ total, of, offset, reasons, failures }) {
    const { query, reason } = this.parameters;
    const link = (changes) =>
      hashOf(["failures"], { split: this.split, query, reason, ...changes });
    this.summary.textContent =
      total === of ? counted(of, "failure") : `${count(total)} of ${counted(of, "failure")} match`;
    this.reasons.replaceChildren(
      ...reasons.map((each) => {
        const isChosen = each.reason === reason;
        const chip = make(
          "a",
          { className: "app-chip", href: link({ reason: isChosen ? null : each.reason }) },
          each.reason,
          make("span", { className: "app-chip-count" }, count(each.count)),
        );
        chip.setAttribute("aria-pressed", String(isChosen));
        chip.setAttribute("role", "button");
        return chip;
      }),
    );
    if (failures.length === 0) {
      const all = make("a", { href: hashOf(["failures"], { split: this.split }) }, "Show all");
      this.results.replaceChildren(
        of === 0 ? emptyBox("Every video became a sample.") : emptyBox("None is like that. ", all),
      );
      return;
    }
    this.results.replaceChildren(
      make("ul", { className: "app-failure-list" }, ...failures.map(failureRow)),
      pager({
        offset,
        limit: PAGE,
        total,
        link: (to) => link({ offset: to > 0 ? to : null }),
      }),
    );
  }
}

function failureRow({ source, key, stage, error, message }) {
  return make(
    "li",
    { className: "app-failure" },
    make("strong", { className: "app-failure-source" }, source || key),
    make("span", { className: "app-chip is-plain" }, `${stage}: ${error}`),
    make("span", { className: "app-failure-message" }, message),
  );
}
