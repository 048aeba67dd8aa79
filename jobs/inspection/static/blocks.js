// What a frame says of one block and of its vectors.

const SOURCE = 0;
const WIDTH = 1;
const HEIGHT = 2;
const CENTRE_X = 3;
const CENTRE_Y = 4;
const MOTION_X = 5;
const MOTION_Y = 6;
const QUARTER_PIXELS = 4;

// List 0 looks into the past, list 1 into the future.
export const LISTS = ["past", "future"];

// Say how a block was made: "intra", "past", "future", "both"; null where nothing tells.
export function blockType(frame, position) {
  if (frame.coverage === null) {
    return null;
  }
  const [lists, rows, columns] = frame.coverage.shape;
  const covered = (list) => list < lists && frame.coverage.data[list * rows * columns + position];
  if (covered(0)) {
    return covered(1) ? "both" : "past";
  }
  return covered(1) ? "future" : "intra";
}

// Return the vector of a block in pixels, [dx, dy] to where it was predicted from, or null.
export function blockVector(frame, list, position) {
  if (frame.motion === null || list >= frame.motion.shape[0]) {
    return null;
  }
  const [, rows, columns] = frame.motion.shape;
  const place = list * rows * columns + position;
  if (!frame.coverage.data[place]) {
    return null;
  }
  const { data } = frame.motion;
  return [data[2 * place] / QUARTER_PIXELS, data[2 * place + 1] / QUARTER_PIXELS];
}

// Go through the decoder's vectors; motion in pixels.
export function* decoderVectors(frame) {
  const { data, shape } = frame.vectors;
  const step = shape[1];
  for (let at = 0; at < data.length; at += step) {
    yield {
      list: data[at + SOURCE] < 0 ? 0 : 1,
      width: data[at + WIDTH],
      height: data[at + HEIGHT],
      x: data[at + CENTRE_X],
      y: data[at + CENTRE_Y],
      dx: data[at + MOTION_X] / QUARTER_PIXELS,
      dy: data[at + MOTION_Y] / QUARTER_PIXELS,
    };
  }
}

// Go through the field's blocks as if each had come with a vector of its own.
function* fieldVectors(frame, block) {
  const [lists, rows, columns] = frame.motion.shape;
  for (let list = 0; list < lists; list += 1) {
    for (let position = 0; position < rows * columns; position += 1) {
      const vector = blockVector(frame, list, position);
      if (vector !== null) {
        yield {
          list,
          width: block,
          height: block,
          x: ((position % columns) + 0.5) * block,
          y: (Math.floor(position / columns) + 0.5) * block,
          dx: vector[0],
          dy: vector[1],
        };
      }
    }
  }
}

// Go through all vectors of a frame: the decoder's own where they are known.
export function frameVectors(frame, block) {
  if (frame.vectors !== null) {
    return decoderVectors(frame);
  }
  return frame.motion === null ? [] : fieldVectors(frame, block);
}

// Return the decoder's vectors whose block holds a pixel.
export function vectorsAt(frame, x, y) {
  const found = [];
  if (frame.vectors !== null) {
    for (const vector of decoderVectors(frame)) {
      const inside =
        Math.abs(x + 0.5 - vector.x) < vector.width / 2 &&
        Math.abs(y + 0.5 - vector.y) < vector.height / 2;
      if (inside) {
        found.push(vector);
      }
    }
  }
  return found;
}

// Content moves from its source in the past to the block, and from the block to the future.
export function movement(list, dx, dy) {
  return list === 0 ? [-dx, -dy] : [dx, dy];
}
