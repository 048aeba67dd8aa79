// The address behind '#': which view, and what it shows; see app.js.

// Return an address. Parameters that are null or undefined are left out, empty ones are not.
export function hashOf(place, parameters = {}) {
  const path = place.map(encodeURIComponent).join("/");
  const text = queryOf(parameters);
  return `#/${path}${text ? `?${text}` : ""}`;
}

// Return the frame that parameters name, or null.
export function frameOf({ frame }) {
  return /^\d+$/.test(frame ?? "") ? Number(frame) : null;
}

export function queryOf(parameters) {
  const known = Object.entries(parameters).filter(
    ([, value]) => value !== null && value !== undefined,
  );
  return new URLSearchParams(known).toString();
}

// Return the address as {place, parameters}; what was typed by hand may be anything.
export function readHash() {
  const whole = location.hash.replace(/^#\/?/, "");
  const end = whole.indexOf("?");
  const path = end < 0 ? whole : whole.slice(0, end);
  const query = end < 0 ? "" : whole.slice(end + 1);
  const place = path.split("/").map((part) => {
    try {
      return decodeURIComponent(part);
    } catch {
      return "";
    }
  });
  return { place, parameters: Object.fromEntries(new URLSearchParams(query)) };
}
