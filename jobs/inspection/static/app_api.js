// What the app asks of its server. Addresses are relative: the app may lie below a proxy's path.

import { queryOf } from "./app_address.js";

// Ask for JSON; an error's message is the server's own, which is written for people.
export async function ask(path, parameters = {}, { signal } = {}) {
  let answer;
  try {
    answer = await fetch(address(path, parameters), { signal });
  } catch (error) {
    if (error.name === "AbortError") {
      throw error;
    }
    throw new Error("The server does not answer. Is 'gopstream view' still running?");
  }
  const content = await answer.json().catch(() => null);
  if (!answer.ok || content === null) {
    throw new Error(content?.error ?? `The server answered ${answer.status}.`);
  }
  return content;
}

export function address(path, parameters = {}) {
  const text = queryOf(parameters);
  return text ? `api/${path}?${text}` : `api/${path}`;
}

export function clipPath(split, position) {
  return `${encodeURIComponent(split)}/${position}`;
}

// Requests of frames at the same time: one is decoded while another travels.
const IN_FLIGHT = 2;
// Who drags along the timeline leaves frames behind that nobody waits for any more.
const WAITING = 5;
const PAUSE = 100; // milliseconds

// Of a longer clip only those frames have numbers that were shown.
const FRAMES_WITH_NUMBERS = 3000;

// A clip for the player (player.js): the frame that was asked for last comes first.
export class ClipSource {
  constructor(split, position, clip) {
    this.clip = { ...clip, statistics: new Array(clip.kinds.length).fill(null) };
    this.path = `clips/${clipPath(split, position)}`;
    this.waiting = [];
    this.inFlight = 0;
    this.stopped = new AbortController();
  }

  frame(index) {
    return new Promise((resolve, reject) => {
      this.waiting.push({ index, resolve, reject });
      while (this.waiting.length > WAITING) {
        this.waiting.shift().reject(new Error("another frame was asked for"));
      }
      this.next();
    });
  }

  // Ask for the numbers of all frames, some at a time; calls `onNumbers` when some have come.
  async fillTimeline(onNumbers) {
    const { statistics } = this.clip;
    const total = statistics.length <= FRAMES_WITH_NUMBERS ? statistics.length : 0;
    const { signal } = this.stopped;
    for (let first = 0; first < total && !signal.aborted; ) {
      // Frames go first: somebody waits for them.
      while (this.inFlight > 0 && !signal.aborted) {
        await new Promise((done) => setTimeout(done, PAUSE));
      }
      const found = await ask(`${this.path}/statistics/${first}`, {}, { signal });
      found.statistics.forEach((numbers, place) => {
        statistics[first + place] = numbers;
      });
      first += found.statistics.length;
      onNumbers();
    }
  }

  stop() {
    this.stopped.abort();
    this.waiting = [];
  }

  async next() {
    if (this.inFlight >= IN_FLIGHT || this.waiting.length === 0) {
      return;
    }
    const { index, resolve, reject } = this.waiting.pop();
    this.inFlight += 1;
    try {
      resolve(await ask(`${this.path}/frames/${index}`, {}, { signal: this.stopped.signal }));
    } catch (error) {
      reject(error);
    } finally {
      this.inFlight -= 1;
      this.next();
    }
  }
}
