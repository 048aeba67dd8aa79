// What several views of the app show: messages, pages, bars.

import { make } from "./elements.js";

const NUMBERS = new Intl.NumberFormat("en");

export function count(value) {
  return NUMBERS.format(value);
}

// "1 sample", "2,000 samples".
export function counted(value, one, many = `${one}s`) {
  return `${count(value)} ${value === 1 ? one : many}`;
}

export function alertBox(message) {
  return make("p", { className: "app-alert", role: "alert" }, message);
}

export function emptyBox(...content) {
  return make("p", { className: "app-empty" }, ...content);
}

// Links to the pages before and after; `link(offset)` is a page's address.
export function pager({ offset, limit, total, link }) {
  const box = make("nav", { className: "app-pager", ariaLabel: "Pages" });
  if (total <= limit && offset === 0) {
    return box;
  }
  const last = Math.max(0, Math.floor((total - 1) / limit) * limit);
  const step = (text, to, isThere, name) => {
    const node = isThere
      ? make("a", { href: link(to), className: "app-button" }, text)
      : make("span", { className: "app-button is-off", ariaDisabled: "true" }, text);
    node.dataset.page = name;
    return node;
  };
  const end = Math.min(offset + limit, total);
  box.append(
    step("First", 0, offset > 0, "first"),
    step("Back", Math.max(0, offset - limit), offset > 0, "back"),
    make("span", { className: "app-page" }, `${count(Math.min(offset + 1, total))} \u2013 ${count(end)}`),
    step("Next", offset + limit, end < total, "next"),
    step("Last", last, end < total, "last"),
  );
  return box;
}

// A list of bars, each as long as its count; `link` makes a bar an address.
export function bars(rows, { title }) {
  const most = Math.max(1, ...rows.map((row) => row.count));
  const list = make("ol", { className: "app-bars", ariaLabel: title });
  for (const { name, text = count, count: value, href } of rows) {
    const fill = make("span", { className: "app-bar-fill" });
    fill.style.width = `${(100 * value) / most}%`;
    const label = href ? make("a", { href }, name) : make("span", {}, name);
    label.className = "app-bar-name";
    label.title = name;
    const track = make("span", { className: "app-bar-track" }, fill);
    list.append(
      make("li", {}, label, track, make("span", { className: "app-bar-count" }, text(value))),
    );
  }
  return list;
}

// Call a function once nobody has asked for it again for a while.
export function afterPause(action, milliseconds = 250) {
  let timer = 0;
  const later = (...words) => {
    clearTimeout(timer);
    timer = setTimeout(() => action(...words), milliseconds);
  };
  later.cancel = () => clearTimeout(timer);
  return later;
}

// Run the newest of several questions: an earlier one's answer is dropped.
export class Latest {
  constructor() {
    this.controller = new AbortController();
  }

  start() {
    this.controller.abort();
    this.controller = new AbortController();
    return this.controller.signal;
  }

  stop() {
    this.controller.abort();
  }
}
