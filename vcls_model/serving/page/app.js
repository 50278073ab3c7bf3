// The page: sources, filters, keys, and the grid of streams.

import { get } from "/page/socket.js";
import { Stream } from "/page/stream.js";

const $ = (id) => document.getElementById(id);
const streams = [];
let labels = [];
let visibleClasses = null;
let unspoken = [];

const page = {
  nameOf: (index) => labels[index]?.name ?? `class ${index}`,
  visible: (index) => visibleClasses === null || visibleClasses.has(index),
  threshold: () => Number($("threshold").value),
  fail(text) {
    $("error").firstElementChild.textContent = text;
    $("error").hidden = false;
  },
  speak(name) {
    unspoken.push(name);
  },
  closed(stream) {
    streams.splice(streams.indexOf(stream), 1);
    $("empty").hidden = streams.length > 0;
  },
};

// New labels are spoken together, at most every four seconds, so that a screen reader can follow.
setInterval(() => {
  if (!unspoken.length) return;
  $("spoken").textContent = `New: ${[...new Set(unspoken)].join(", ")}`;
  unspoken = [];
}, 4000);

async function start(title, watch) {
  $("error").hidden = true;
  const stream = new Stream(page, title);
  streams.push(stream);
  $("streams").append(stream.root);
  $("empty").hidden = true;
  try {
    await watch(stream);
  } catch (error) {
    page.fail(`${title}: ${words(error)}`);
    stream.close();
  }
}

function words(error) {
  if (error.name === "NotAllowedError") return "the browser was not allowed to use it. Allow it in the address bar and try again.";
  if (error.name === "NotFoundError") return "there is none at this machine.";
  if (error.name === "NotReadableError") return "another program is using it.";
  return error.message;
}

const sources = {
  camera: () =>
    start("Camera", async (stream) => {
      if (!navigator.mediaDevices) throw new Error("browsers open cameras only for https or for this machine's own address.");
      const picture = { width: { ideal: 1280 }, facingMode: "environment" };
      const sound = { echoCancellation: false, noiseSuppression: false, autoGainControl: false };
      const media = await navigator.mediaDevices
        .getUserMedia({ video: picture, audio: sound })
        .catch(() => navigator.mediaDevices.getUserMedia({ video: picture }));
      await stream.watchMedia(media);
    }),
  screen: () =>
    start("Screen", async (stream) => {
      if (!navigator.mediaDevices?.getDisplayMedia) throw new Error("this browser cannot share a screen.");
      await stream.watchMedia(await navigator.mediaDevices.getDisplayMedia({ video: true, audio: true }));
    }),
  file: () => $("file-input").click(),
  whole: () => $("whole-input").click(),
};

$("error").lastElementChild.addEventListener("click", () => ($("error").hidden = true));
for (const [name, act] of Object.entries(sources)) $(name).addEventListener("click", act);
for (const [id, method] of [["file-input", "watchFile"], ["whole-input", "labelFile"]])
  $(id).addEventListener("change", (event) => {
    for (const file of event.target.files) start(file.name, (stream) => stream[method](file));
    event.target.value = "";
  });
$("pulled-name").addEventListener("change", (event) => {
  const name = event.target.value;
  if (name) start(name, async (stream) => stream.watchPulled(name));
  event.target.value = "";
});

function filter() {
  const text = $("filter").value.trim().toLowerCase();
  const vertical = $("vertical").value;
  visibleClasses = null;
  if (text || vertical) {
    const wanted = labels.filter(
      (label) => label.name.toLowerCase().includes(text) && (!vertical || label.verticals.includes(vertical)),
    );
    visibleClasses = new Set(wanted.map((label) => label.index));
  }
  $("threshold-shown").textContent = `${Math.round(100 * page.threshold())} %`;
  for (const stream of streams) stream.draw();
}
for (const id of ["filter", "vertical", "threshold"]) $(id).addEventListener("input", filter);

$("theme").addEventListener("click", () => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  localStorage.setItem("theme", root.dataset.theme);
  recolour();
});
if (localStorage.getItem("theme")) document.documentElement.dataset.theme = localStorage.getItem("theme");
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", recolour);

function recolour() {
  for (const stream of streams) {
    stream.timeline.recolour();
    stream.draw();
  }
}

const keys = {
  c: sources.camera,
  s: sources.screen,
  f: sources.file,
  w: sources.whole,
  " ": () => current()?.pause(),
  ArrowLeft: () => current()?.step(-1),
  ArrowRight: () => current()?.step(1),
  l: () => current()?.live(),
  d: () => current()?.download("json"),
  "/": () => $("filter").focus(),
};

/** The stream that holds the focus, else the last one. */
const current = () => streams.find((stream) => stream.root.contains(document.activeElement)) ?? streams.at(-1);

document.addEventListener("keydown", (event) => {
  if (event.target.matches("input, select, video") || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === " " && event.target.matches("button")) return;
  const act = keys[event.key];
  if (!act) return;
  event.preventDefault();
  act();
});

async function begin() {
  try {
    const answer = await get("/v1/labels");
    labels = answer.labels;
    $("model").textContent = `${answer.model} · ${labels.length.toLocaleString()} labels`;
    const verticals = [...new Set(labels.flatMap((label) => label.verticals))].sort();
    $("vertical").append(...verticals.map((name) => new Option(name)));
    $("vertical-label").hidden = !verticals.length;
    const pulled = (await get("/v1/streams")).streams;
    $("pulled-name").append(...pulled.map(({ name }) => new Option(name)));
    $("pulled").hidden = !pulled.length;
    const wanted = new URLSearchParams(location.search).get("stream");
    if (wanted && pulled.some(({ name }) => name === wanted)) start(wanted, async (stream) => stream.watchPulled(wanted));
  } catch (error) {
    $("model").textContent = "not connected";
    page.fail(error.message);
  }
}
begin();
