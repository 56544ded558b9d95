"use strict";

const form = document.getElementById("try-form");
const answer = document.getElementById("answer");
const preview = document.getElementById("preview");

function element(kind, text, className) {
  const made = document.createElement(kind);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

/* Draw the picture at the model's size; the canvas then shows what the model sees. */
async function draw(input) {
  const bitmap = await createImageBitmap(input.files[0]);
  const context = preview.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "#000";
  context.fillRect(0, 0, preview.width, preview.height);
  context.drawImage(bitmap, 0, 0, preview.width, preview.height);
  const image = context.getImageData(0, 0, preview.width, preview.height);
  if (Number(input.dataset.channels) === 1) {
    for (let at = 0; at < image.data.length; at += 4) {
      const grey = Math.round(0.299 * image.data[at] + 0.587 * image.data[at + 1] + 0.114 * image.data[at + 2]);
      image.data[at] = image.data[at + 1] = image.data[at + 2] = grey;
    }
    context.putImageData(image, 0, 0);
  }
  preview.hidden = false;
  return image.data;
}

/* Nested lists: channels, height, width; whole levels from 0 to 255. */
async function pixels(input) {
  const data = await draw(input);
  const { channels, height, width } = input.dataset;
  return Array.from({ length: Number(channels) }, (_, channel) =>
    Array.from({ length: Number(height) }, (_, y) =>
      Array.from({ length: Number(width) }, (_, x) => data[4 * (y * Number(width) + x) + channel])));
}

async function record() {
  const row = {};
  for (const input of form.querySelectorAll("input")) {
    const { kind, name } = input.dataset;
    const text = input.value.trim();
    if (kind === "image") {
      row[name] = await pixels(input);
    } else if (text !== "") {
      row[name] = kind === "numeric" ? Number(text) : text;
      if (kind === "numeric" && !Number.isFinite(row[name])) throw new Error(`${name}: not a number`);
    }
  }
  return row;
}

function show(prediction) {
  if ("value" in prediction) {
    answer.append(element("p", Number(prediction.value.toPrecision(6)).toString(), "result"));
    return;
  }
  answer.append(element("p", prediction.label, "result"));
  const list = element("dl", undefined, "scores");
  const scores = Object.entries(prediction.scores).sort((one, other) => other[1] - one[1]);
  for (const [label, score] of scores.slice(0, 10)) {
    const percent = `${(100 * score).toFixed(1)} %`;
    const bar = element("meter", percent);
    bar.value = score;
    bar.setAttribute("aria-label", `${label}: ${percent}`);
    const cell = element("dd");
    cell.append(bar, element("span", percent));
    list.append(element("dt", label), cell);
  }
  answer.append(list);
}

async function ask(event) {
  event.preventDefault();
  answer.replaceChildren();
  const button = form.querySelector("button");
  button.disabled = true;
  try {
    const response = await fetch(form.dataset.action, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ inputs: [await record()] }),
    });
    const body = await response.json();
    if (!response.ok) throw new Error(body.detail);
    show(body.predictions[0]);
  } catch (error) {
    const notice = element("p", error.message, "notice");
    notice.setAttribute("role", "alert");
    answer.append(notice);
  } finally {
    button.disabled = false;
  }
}

form.addEventListener("submit", ask);
for (const input of form.querySelectorAll("input[type=file]")) {
  input.addEventListener("change", () => draw(input).catch(() => { preview.hidden = true; }));
}
