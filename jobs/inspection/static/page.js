// Starts the player of a page that carries its own frames; the address says which one is shown.

import { embeddedSource } from "./payloads.js";
import { startPlayer } from "./player.js";

function frameOfAddress() {
  const frame = /^#frame=(\d+)$/.exec(location.hash);
  return frame === null ? null : Number(frame[1]);
}

const pagePlayer = startPlayer(document.getElementById("player"), embeddedSource(), {
  frame: frameOfAddress(),
  onFrame: (index) => history.replaceState(null, "", `#frame=${index}`),
});
window.addEventListener("hashchange", () => pagePlayer.seek(frameOfAddress() ?? pagePlayer.index));
