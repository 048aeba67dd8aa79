// Starts the player of a page that carries its own frames.

import { embeddedSource } from "./payloads.js";
import { startPlayer } from "./player.js";

startPlayer(document.getElementById("player"), embeddedSource());
