// The layers over a frame. Each draws in pixels of the coded picture, whatever the zoom.
//
// draw(pen, frame, view): `view` has `clip`, `lists` (which reference lists to show), `pixel`
// (coded pixels per pixel of the screen), `arrowScale`, and `told`, where a layer leaves a
// sentence for its legend. Titles are those of `gopstream inspect --layers`.

import { blockType, blockVector, frameVectors, movement } from "./blocks.js";

// Those of pictures/colour_scales.py, which more people can tell apart.
export const TYPE_COLOURS = {
  intra: [204, 80, 150],
  past: [86, 180, 233],
  future: [230, 159, 0],
  both: [0, 158, 115],
};
const ARROW_COLOURS = ["rgb(115 205 255)", "rgb(255 182 30)"]; // lighter: they are thin
const SHADOW = "rgba(0, 0, 0, 0.75)";
const SPACE_OF_ARROW = 11; // pixels of the screen
const SHORT_ARROW = 6; // also pixels of the screen
const STRONG_RESIDUAL = 16; // mean absolute difference that has the heat map's last colour
const HEAT = [[20, 11, 52], [101, 21, 110], [187, 55, 84], [249, 142, 9], [252, 255, 164]];

// How many times as long as the movement arrows can be drawn.
export const ARROW_SCALES = [1, 2, 3, 4, 6, 8];
const LONG_ARROW = 32; // pixels of the screen that a usual long one may take

// Choose the scale at which the usual motion of a clip is seen: one for all of its frames that
// have numbers, so that they can be compared. `pixel` is that of the whole picture, so that
// zooming changes nothing.
export function automaticScale(statistics, pixel) {
  const lengths = statistics.map((numbers) => numbers?.p95_length ?? 0).filter((one) => one > 0);
  lengths.sort((one, other) => one - other);
  const usual = lengths[Math.floor(lengths.length / 2)] ?? 0;
  return ARROW_SCALES.findLast((scale) => usual * scale <= LONG_ARROW * pixel) ?? 1;
}

// Say why a frame shows no vector; nothing where it has some.
export function whyNoVectors(frame) {
  if (frame.motion === null && frame.vectors === null) {
    return "The vectors of this frame are not known";
  }
  const isEmpty = (array) => array === null || array.data.every((value) => value === 0);
  if ((frame.vectors?.shape[0] ?? 0) > 0 || !isEmpty(frame.coverage)) {
    return "";
  }
  return frame.kind === "I" ? "I-frame: no vectors" : "No vectors in this frame";
}

// Motion that has full colour, in pixels: one for the clip, so that frames can be compared.
export function fullColourLength(clip) {
  return Math.max(4, Math.round(clip.coded_size[0] / 40));
}

// Return the colour of a heat of 0 to 1.
export function heatColour(heat) {
  const place = Math.min(heat, 0.9999) * (HEAT.length - 1);
  const below = Math.floor(place);
  return HEAT[below].map((low, i) => low + (HEAT[below + 1][i] - low) * (place - below));
}

// Return the colour of a direction: right is red, down yellow-green, left cyan, up violet.
export function directionColour(x, y) {
  const sixth = ((Math.atan2(y, x) / Math.PI) * 3 + 6) % 6;
  return [0, 4, 2].map((shift) => {
    const away = Math.abs(((sixth + shift) % 6) - 3);
    return 255 * Math.min(1, Math.max(0, away - 1));
  });
}

// Paint one pixel per block and spread it over the coded picture.
function paintBlocks(pen, shape, block, colourOf) {
  const [rows, columns] = shape.slice(-2);
  const canvas = new OffscreenCanvas(columns, rows);
  const small = canvas.getContext("2d");
  const picture = small.createImageData(columns, rows);
  for (let position = 0; position < rows * columns; position += 1) {
    const colour = colourOf(position);
    if (colour !== null) {
      picture.data.set(colour, 4 * position);
    }
  }
  small.putImageData(picture, 0, 0);
  pen.imageSmoothingEnabled = false;
  pen.drawImage(canvas, 0, 0, columns * block, rows * block);
}

function drawPicture(pen, picture, view) {
  const [x, y, width, height] = view.clip.display_rect;
  // Far in, pixels are squares: smoothing would show what is not there.
  pen.imageSmoothingEnabled = view.pixel > 0.4;
  pen.imageSmoothingQuality = "high";
  pen.drawImage(picture, x, y, width, height);
}

function drawColours(pen, frame, view) {
  const full = fullColourLength(view.clip);
  const shape = frame.motion.shape.slice(1, 3);
  paintBlocks(pen, shape, view.clip.block, (position) => {
    for (const list of view.lists) {
      const vector = blockVector(frame, list, position);
      if (vector !== null) {
        const [x, y] = movement(list, ...vector);
        const share = Math.min(1, Math.hypot(x, y) / full);
        return [...directionColour(x, y), share === 0 ? 0 : 60 + 195 * share];
      }
    }
    return null;
  });
}

function drawTypes(pen, frame, view) {
  paintBlocks(pen, frame.coverage.shape, view.clip.block, (position) => [
    ...TYPE_COLOURS[blockType(frame, position)],
    255,
  ]);
}

function drawHeat(pen, frame, view) {
  const area = view.clip.block ** 2;
  paintBlocks(pen, frame.residual.shape, view.clip.block, (position) => {
    if (blockType(frame, position) === "intra") {
      return null;
    }
    const mean = frame.residual.data[position] / area;
    return [...heatColour(Math.sqrt(mean / STRONG_RESIDUAL)), 255];
  });
}

function drawPartition(pen, frame, view) {
  pen.beginPath();
  if (frame.vectors === null) {
    outlineField(pen, frame, view);
  } else {
    for (const { list, x, y, width, height } of frameVectors(frame, view.clip.block)) {
      if (view.lists.includes(list)) {
        pen.rect(x - width / 2, y - height / 2, width, height);
      }
    }
  }
  pen.lineWidth = 2.5 * view.pixel;
  pen.strokeStyle = "rgba(0, 0, 0, 0.5)";
  pen.stroke();
  pen.lineWidth = view.pixel;
  pen.strokeStyle = "rgba(255, 255, 255, 0.9)";
  pen.stroke();
}

// Without the decoder's vectors: lines where neighbours of the field differ.
function outlineField(pen, frame, view) {
  const { block } = view.clip;
  const [, rows, columns] = frame.motion.shape;
  const same = (one, other) =>
    [0, 1].every((list) => `${blockVector(frame, list, one)}` === `${blockVector(frame, list, other)}`);
  for (let position = 0; position < rows * columns; position += 1) {
    const x = (position % columns) * block;
    const y = Math.floor(position / columns) * block;
    if (x > 0 && !same(position, position - 1)) {
      pen.moveTo(x, y);
      pen.lineTo(x, y + block);
    }
    if (y > 0 && !same(position, position - columns)) {
      pen.moveTo(x, y);
      pen.lineTo(x + block, y);
    }
  }
}

// One vector of each cell is drawn: where blocks are small on the screen, arrows would touch.
export function shownVectors(frame, view) {
  const { block } = view.clip;
  const cell = block * Math.ceil((SPACE_OF_ARROW * view.pixel) / block);
  const kept = new Map();
  let count = 0;
  for (const vector of frameVectors(frame, view.clip.block)) {
    if (view.lists.includes(vector.list)) {
      count += 1;
      const place = `${vector.list} ${Math.floor(vector.x / cell)} ${Math.floor(vector.y / cell)}`;
      if (!kept.has(place)) {
        kept.set(place, vector);
      }
    }
  }
  return { vectors: [...kept.values()], count };
}

function drawArrows(pen, frame, view) {
  const { vectors, count } = shownVectors(frame, view);
  const told = [`drawn ${view.arrowScale} \u00d7 as long`];
  if (vectors.length < count) {
    told.push(`${vectors.length} of ${count}; zoom in for more`);
  }
  view.told.arrows = count > 0 ? told.join(" \u00b7 ") : "";
  pen.lineCap = "round";
  pen.lineJoin = "round";
  for (const list of view.lists) {
    const lines = new Path2D();
    const dots = new Path2D();
    for (const vector of vectors.filter((one) => one.list === list)) {
      const [x, y] = movement(list, vector.dx, vector.dy);
      traceArrow(lines, dots, vector, [x * view.arrowScale, y * view.arrowScale], view.pixel);
    }
    pen.lineWidth = 3.6 * view.pixel;
    pen.strokeStyle = SHADOW;
    pen.stroke(lines);
    pen.fillStyle = SHADOW;
    pen.fill(dots);
    pen.lineWidth = 1.6 * view.pixel;
    pen.strokeStyle = ARROW_COLOURS[list];
    pen.stroke(lines);
    pen.globalAlpha *= 0.6;
    pen.fillStyle = ARROW_COLOURS[list];
    pen.fill(dots);
    pen.globalAlpha /= 0.6;
  }
}

// An arrow the way things move: from their source in the past to the block, or from the block to
// where they are in the future; a dot where they stand still.
function traceArrow(lines, dots, { list, x: centreX, y: centreY }, [dx, dy], pixel) {
  const [x, y] = list === 0 ? [centreX - dx, centreY - dy] : [centreX, centreY];
  const length = Math.hypot(dx, dy);
  if (length < 1.5 * pixel) {
    dots.moveTo(centreX + 1.3 * pixel, centreY);
    dots.arc(centreX, centreY, 1.3 * pixel, 0, 2 * Math.PI);
    return;
  }
  lines.moveTo(x, y);
  lines.lineTo(x + dx, y + dy);
  if (length < SHORT_ARROW * pixel) {
    dots.moveTo(x + 1.6 * pixel, y); // no room for a head: a dot where it begins
    dots.arc(x, y, 1.6 * pixel, 0, 2 * Math.PI);
    return;
  }
  const head = Math.min(6 * pixel, 0.5 * length) / length;
  const [back, side] = [0.87 * head, 0.55 * head];
  lines.moveTo(x + dx - dx * back - dy * side, y + dy - dy * back + dx * side);
  lines.lineTo(x + dx, y + dy);
  lines.lineTo(x + dx - dx * back + dy * side, y + dy - dy * back - dx * side);
}

// From the lowest to the highest. `legend` names the picture that explains the colours.
export const LAYERS = [
  {
    name: "picture",
    title: "Frame",
    hint: "The picture.",
    has: (frame) => frame.picture !== null,
    draw: (pen, frame, view) => drawPicture(pen, frame.picture, view),
    plane: (planes) => planes.includes("frames"),
    opacity: 1,
    shown: true,
  },
  {
    name: "signed",
    title: "Residual, signed",
    option: "residual_signed",
    hint: "Decoded minus predicted luma, four times, around grey; intra blocks are grey.",
    has: (frame) => frame.residualPicture !== null,
    draw: (pen, frame, view) => drawPicture(pen, frame.residualPicture, view),
    plane: (planes) => planes.includes("residual"),
    opacity: 1,
  },
  {
    name: "heat",
    title: "Residual, heat",
    option: "residual_heat",
    hint: "Mean absolute luma difference of each predicted block.",
    has: (frame) => frame.residual !== null,
    draw: drawHeat,
    plane: (planes) => planes.includes("residual"),
    legend: "heat",
    opacity: 0.75,
  },
  {
    name: "types",
    title: "Coverage",
    hint: "What predicts each block: the past, the future, both, or nothing (intra).",
    has: (frame) => frame.coverage !== null,
    draw: drawTypes,
    plane: (planes) => planes.includes("motion"),
    legend: "types",
    opacity: 0.5,
  },
  {
    name: "colours",
    title: "Colours",
    hint: "Colour is the direction things move, strength is how far.",
    has: (frame) => frame.motion !== null,
    draw: drawColours,
    plane: (planes) => planes.includes("motion"),
    legend: "wheel",
    opacity: 0.75,
  },
  {
    name: "partition",
    title: "Partition",
    hint: "Outlines of the blocks that have a vector of their own.",
    has: (frame) => frame.vectors !== null || frame.motion !== null,
    draw: drawPartition,
    plane: (planes) => planes.includes("motion") || planes.includes("vectors"),
    opacity: 0.6,
  },
  {
    name: "arrows",
    title: "Arrows",
    hint: "The way things move: from where the content was to the block, or on to where it will be.",
    has: (frame) => frame.vectors !== null || frame.motion !== null,
    draw: drawArrows,
    plane: (planes) => planes.includes("motion") || planes.includes("vectors"),
    legend: "arrows",
    opacity: 1,
    shown: true,
  },
];
export const STRONGEST_HEAT = STRONG_RESIDUAL;
export const ARROW_COLOUR_OF_LIST = ARROW_COLOURS;
