// Small helpers that build the page's elements. Text goes in as text nodes, never as markup.

const SVG = "http://www.w3.org/2000/svg";

// Make an element: properties it has are set as such, others become attributes.
export function make(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in node) {
      node[name] = value;
    } else {
      node.setAttribute(name, value);
    }
  }
  node.append(...children);
  return node;
}

// Draw an icon from one path in a square of 24.
export function icon(path) {
  const picture = document.createElementNS(SVG, "svg");
  picture.setAttribute("viewBox", "0 0 24 24");
  picture.setAttribute("aria-hidden", "true");
  const line = document.createElementNS(SVG, "path");
  line.setAttribute("d", path);
  picture.append(line);
  return picture;
}

// Fill a <dl> with [name, value, key] rows; `key` marks the value for those who look for it.
export function fillFacts(list, rows) {
  list.replaceChildren(
    ...rows.flatMap(([name, value, key]) => [
      make("dt", {}, name),
      make("dd", key ? { "data-fact": key } : {}, value),
    ]),
  );
}

// A number for people: a true minus sign, `digits` after the point.
export function number(value, digits = 2) {
  const text = Math.abs(value).toFixed(digits);
  return value < 0 && Number(text) !== 0 ? `\u2212${text}` : text;
}

// A share; with a digit more where it would look like none or all.
export function percent(share) {
  const isNearAnEnd = (share > 0 && share < 0.0995) || (share > 0.9005 && share < 1);
  return `${(100 * share).toFixed(isNearAnEnd ? 1 : 0)} %`;
}

// The device pixels of a canvas follow its size on the page.
export function matchPixels(canvas) {
  const ratio = window.devicePixelRatio || 1;
  const width = Math.max(1, Math.round(canvas.clientWidth * ratio));
  const height = Math.max(1, Math.round(canvas.clientHeight * ratio));
  if (canvas.width !== width || canvas.height !== height) {
    canvas.width = width;
    canvas.height = height;
  }
  return ratio;
}
