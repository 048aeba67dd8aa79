// Frames as they travel (see clip_payload.py) become arrays and pictures.

// Little-endian, as every machine that runs a browser is.
const ARRAYS = { int16: Int16Array, uint16: Uint16Array, uint8: Uint8Array };

// Return {shape, data} of a packed array, or null.
export async function unpackArray(packed) {
  if (packed === null) {
    return null;
  }
  const text = atob(packed.data);
  const bytes = Uint8Array.from(text, (letter) => letter.charCodeAt(0));
  const plain = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  const content = await new Response(plain).arrayBuffer();
  return { shape: packed.shape, data: new ARRAYS[packed.dtype](content) };
}

async function readPicture(address) {
  if (address === null) {
    return null;
  }
  const picture = new Image();
  picture.src = address;
  await picture.decode();
  return picture;
}

// Return a frame ready to draw.
export async function readFrame(payload) {
  const [picture, residualPicture, motion, coverage, residual, vectors] = await Promise.all([
    readPicture(payload.picture),
    readPicture(payload.residual_picture),
    unpackArray(payload.motion),
    unpackArray(payload.coverage),
    unpackArray(payload.residual),
    unpackArray(payload.vectors),
  ]);
  return {
    index: payload.index,
    kind: payload.kind,
    time: payload.time,
    pictureOf: payload.picture_of,
    statistics: payload.statistics,
    picture,
    residualPicture,
    motion,
    coverage,
    residual,
    vectors,
  };
}

// The source of a page that carries its frames: one JSON block for each.
export function embeddedSource() {
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  return {
    clip: read("clip"),
    frame: async (index) => read(`frame-${index}`),
  };
}

// Frames that were read lately, so that stepping back is quick; bounded by what they take.
export class FrameCache {
  constructor(source) {
    const [width, height] = source.clip.coded_size;
    this.source = source;
    this.limit = Math.max(6, Math.min(96, Math.floor(2 ** 28 / (8 * width * height))));
    this.frames = new Map();
  }

  // Return a promise of a frame that is ready to draw.
  get(index) {
    let frame = this.frames.get(index);
    if (frame === undefined) {
      frame = this.source.frame(index).then(readFrame);
      // A frame that could not be had is asked for again the next time.
      frame.catch(() => this.frames.delete(index));
    } else {
      this.frames.delete(index); // and put last again: the oldest use goes first
    }
    this.frames.set(index, frame);
    if (this.frames.size > this.limit) {
      this.frames.delete(this.frames.keys().next().value);
    }
    return frame;
  }
}
