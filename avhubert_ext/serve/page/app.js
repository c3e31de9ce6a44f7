// The page: upload a clip, recognize it at a level of noise, and compare transcripts.

import { forget, getBlob, getJson, post } from "./api.js";
import { openCamera } from "./camera.js";
import { drawChart } from "./chart.js";
import { align, edits, wordsOf } from "./compare.js";
import { Player } from "./player.js";

const NAMES = { both: "Audio-visual", audio: "Audio only", video: "Video only" };
const SETTLE_MS = 250; // a slider that has not moved for this long is at rest

const $ = (id) => document.getElementById(id);
const player = new Player($("mouth"), $("sound"));

let settings;
let clip = null;
let transcripts = new Map(); // by modalities and level
let working = new AbortController(); // requests for the clip and level shown
let referenceIsOurs = true; // until the user types another
let source; // the file of the clip, and its name
let settling; // timer of the slider

// ---- uploading a clip

async function upload(file, name, face = "speaking") {
  showError("");
  if (file.size > settings.megabytes * 1e6) {
    return showError(`${name}: larger than ${settings.megabytes} MB; try a shorter clip.`);
  }
  const signal = restart();
  $("result").inert = true; // using it would cancel the upload
  const form = new FormData();
  form.append("file", file, name);
  showWork(`Reading ${name} …`);
  try {
    const received = await post(`/api/clips${query({ face })}`, {
      body: form,
      signal,
      onProgress: (done, of) => showWork(`Looking for the mouth in ${name} …`, done, of),
      onBusy: () => showWork("Waiting: the server is busy with other clips …"),
    });
    source = { file, name };
    await show(received);
  } catch (error) {
    showFailure(error);
  }
  if (signal.aborted) return; // another upload
  $("result").inert = false;
  if (!clip) return;
  showQuality();
  await recognize(); // also after a failure, as the upload has canceled it
}

async function show(received) {
  if (clip) forget(clip);
  clip = received;
  transcripts = new Map();
  referenceIsOurs = true;
  $("reference").value = "";
  $("level").value = 0;
  const hears = clip.modalities.some((modalities) => modalities !== "video");
  document.querySelectorAll(".noise, .chart").forEach((part) => { part.hidden = !hears; });
  $("clip-name").textContent = clip.name;
  $("mouth").hidden = !clip.frames;
  $("warnings").replaceChildren(...clip.warnings.map((text) => make("li", "", text)));
  $("face").hidden = !clip.face;
  if (clip.face) $("face-picture").src = `/api/clips/${clip.id}/face`;
  $("transcripts").replaceChildren(...clip.modalities.map(transcriptPanel));
  $("steps").hidden = true;
  $("drop").classList.add("small");
  $("result").hidden = false;
  await player.open(clip, settings);
}

function showQuality() {
  const q = clip.quality;
  const facts = [["Length", `${clip.seconds.toFixed(1)} s`]];
  if (q.faces) {
    facts.push(
      ["Faces", q.faces],
      ["Face not seen", `${q.missing} of ${q.frames} frames`],
      ["Movement", `${q.motion.toFixed(1)} px per frame`],
      ["Scaled by", q.scale.toFixed(2)],
    );
  }
  const choices = Array.from({ length: q.faces ?? 0 }, (_, n) => new Option(n + 1));
  $("face-choice").hidden = choices.length < 2;
  $("face-number").replaceChildren(...choices);
  $("face-number").value = clip.number;
  $("quality").replaceChildren(...facts.flatMap(
    ([name, value]) => [make("dt", "", name), make("dd", "", value)]));
}

// ---- recognizing

// Get all transcripts at the level of the slider, and its sound.
async function recognize() {
  const signal = restart();
  const level = currentLevel();
  draw();
  try {
    player.setSound(await getBlob(`/api/clips/${clip.id}/audio${query({ snr: level })}`, signal));
    await transcribeAt(level, signal);
    hideWork();
  } catch (error) {
    showFailure(error);
  }
}

async function allLevels() {
  const signal = restart();
  $("all-levels").disabled = true;
  try {
    for (const level of settings.levels) await transcribeAt(level, signal);
    hideWork();
  } catch (error) {
    showFailure(error);
  } finally {
    $("all-levels").disabled = false;
  }
}

async function transcribeAt(level, signal) {
  for (const modalities of clip.modalities) {
    const key = keyOf(modalities, level);
    if (transcripts.has(key)) continue;
    const task = `${NAMES[modalities]}, ${levelName(level)}`;
    showWork(`${task}: recognizing …`);
    const snr = modalities === "video" ? null : level;
    const found = await post(`/api/clips/${clip.id}/transcripts${query({ modalities, snr })}`, {
      signal,
      onProgress: (done, of) => showWork(`${task}: recognizing …`, done, of),
      onBusy: () => showWork("Waiting: the server is busy with other clips …"),
    });
    transcripts.set(key, found);
    draw();
  }
}

// Cancel the current requests; returns the signal for new ones.
function restart() {
  clearTimeout(settling);
  working.abort();
  working = new AbortController();
  return working.signal;
}

function keyOf(modalities, level) {
  return modalities === "video" ? "video" : `${modalities} ${level}`;
}

function currentLevel() {
  return settings.levels[$("level").value];
}

function levelName(level) {
  return level === null ? "clean" : `${level} dB`.replace("-", "−");
}

function query(parameters) {
  const given = Object.entries(parameters).filter(([, value]) => value !== null);
  return given.length ? `?${new URLSearchParams(given)}` : "";
}

// ---- showing

function transcriptPanel(modalities) {
  const panel = make("article", `transcript ${modalities}`);
  panel.id = `transcript-${modalities}`;
  const header = make("header");
  header.append(make("h3", "", NAMES[modalities]), make("span", "rate"));
  panel.append(header, make("p", "text"), make("ul", "warnings"), make("p", "save note"));
  return panel;
}

function draw() {
  const level = currentLevel();
  $("level-shown").textContent = levelName(level);
  $("level").setAttribute("aria-valuetext", levelName(level));
  const clean = transcripts.get(keyOf(clip.modalities[0], null));
  if (referenceIsOurs && clean) $("reference").value = clean.text;
  const said = wordsOf($("reference").value);
  player.setWords(clip.modalities.flatMap((modalities) => drawTranscript(modalities, level, said)));
  drawCurves(said);
}

function drawTranscript(modalities, level, said) {
  const panel = $(`transcript-${modalities}`);
  const found = transcripts.get(keyOf(modalities, level));
  panel.setAttribute("aria-busy", String(!found));
  if (!found) return [];
  const steps = align(said, found.words.map((word) => word.text));
  const shown = [];
  const elements = steps.map((step) => {
    if (step.kind === "missing") return make("span", "missing", step.said);
    const word = found.words[step.word];
    const element = wordElement(word, step.kind);
    shown.push({ element, start: word.start, end: word.end });
    return element;
  });
  if (!found.words.length) elements.push(make("span", "none", "nothing recognized"));
  panel.querySelector(".text").replaceChildren(...elements);
  panel.querySelector(".warnings").replaceChildren(
    ...found.notes.map((text) => make("li", "", text)));
  panel.querySelector(".rate").textContent =
    said.length ? `${edits(steps)} of ${said.length} words differ` : "";
  panel.querySelector(".save").replaceChildren(
    "Save as", ...settings.forms.map((form) => saveLink(modalities, level, form)));
  return shown;
}

function wordElement(word, kind) {
  const element = make("button", kind === "wrong" ? "word wrong" : "word");
  element.type = "button";
  element.append(make("b", "", word.text), make("small", "", word.start.toFixed(2)));
  element.style.setProperty("--confidence", word.confidence);
  element.title = `${word.start.toFixed(2)} to ${word.end.toFixed(2)} s, ` +
    `confidence ${Math.round(100 * word.confidence)}%`;
  element.addEventListener("click", () => player.playFrom(word.start));
  return element;
}

function saveLink(modalities, level, form) {
  const snr = modalities === "video" ? null : level;
  const link = make("a", "", form.toUpperCase());
  link.href = `/api/clips/${clip.id}/transcripts/${form}${query({ modalities, snr })}`;
  const noise = snr === null ? "" : `.${snr}dB`;
  link.download = `${clip.name.replace(/\.\w+$/, "")}.${modalities}${noise}.${form}`;
  return link;
}

function drawCurves(said) {
  const curves = clip.modalities.map((modalities) => ({
    name: NAMES[modalities],
    kind: modalities,
    rates: settings.levels.map((level) => {
      const found = transcripts.get(keyOf(modalities, level));
      if (!found || !said.length) return undefined;
      return (100 * edits(align(said, wordsOf(found.text)))) / said.length;
    }),
  }));
  if ($("chart").parentElement.hidden) return;
  const labels = settings.levels.map((level) => levelName(level).replace(" dB", ""));
  $("chart").replaceChildren(
    drawChart(labels, curves, Number($("level").value), $("chart").clientWidth));
}

function showWork(text, done, of) {
  $("work").hidden = false;
  $("status").textContent = text;
  if (of) {
    $("progress").max = of;
    $("progress").value = done;
  } else {
    $("progress").removeAttribute("value");
  }
}

function hideWork() {
  $("work").hidden = true;
}

function showFailure(error) {
  if (error.name === "AbortError") return; // replaced by another request
  hideWork();
  showError(error.message);
}

function showError(text) {
  $("error").hidden = !text;
  $("error").textContent = text;
}

function make(name, kind = "", text = "") {
  const element = document.createElement(name);
  if (kind) element.className = kind;
  element.textContent = text;
  return element;
}

// ---- the camera

async function useCamera() {
  showError("");
  let camera;
  try {
    camera = await openCamera($("viewfinder"));
  } catch (error) {
    return showError(error.message);
  }
  $("drop").hidden = true;
  $("camera").hidden = false;
  $("record").textContent = "Record";
  $("record").focus();
  let ticking;
  let left = false;

  const leave = () => {
    left = true;
    clearInterval(ticking);
    camera.close();
    $("recorded").textContent = "";
    $("camera").hidden = true;
    $("drop").hidden = false;
  };
  $("leave-camera").onclick = leave;
  $("record").onclick = async () => {
    if (camera.recording) return camera.stop();
    const recorded = camera.record();
    $("record").textContent = "Stop";
    const begun = Date.now();
    ticking = setInterval(() => {
      const seconds = (Date.now() - begun) / 1000;
      $("recorded").textContent = `${seconds.toFixed(0)} s`;
      if (seconds > settings.seconds - 1) camera.stop();
    }, 200);
    const blob = await recorded;
    if (left) return;
    leave();
    await upload(blob, "recording");
  };
}

// ---- start

async function start() {
  settings = await getJson("/api/settings");
  $("model").textContent = settings.model;
  $("limits").textContent =
    `Up to ${settings.seconds} seconds and ${settings.megabytes} MB, from any camera or phone.`;
  $("level").max = settings.levels.length - 1;
  $("loudest").textContent = levelName(settings.levels.at(-1));
  $("noise-kind").textContent = `Added: ${settings.noise}.`;
  $("ticks").replaceChildren(...settings.levels.map((_, n) => {
    const tick = document.createElement("option");
    tick.value = n;
    return tick;
  }));

  $("file").addEventListener("change", (event) => {
    const [file] = event.target.files;
    if (file) upload(file, file.name);
    event.target.value = ""; // so that the same file can be chosen again
  });
  $("use-camera").addEventListener("click", useCamera);
  $("level").addEventListener("input", () => {
    clearTimeout(settling);
    draw();
    settling = setTimeout(recognize, SETTLE_MS);
  });
  $("reference").addEventListener("input", () => {
    referenceIsOurs = !$("reference").value.trim();
    draw();
  });
  $("face-number").addEventListener("change", (event) => {
    upload(source.file, source.name, event.target.value);
  });
  $("all-levels").addEventListener("click", allLevels);
  window.addEventListener("resize", () => clip && draw());
  window.addEventListener("pagehide", () => clip && forget(clip));
  for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
    document.addEventListener(kind, (event) => {
      event.preventDefault();
      $("drop").classList.toggle("over", kind === "dragenter" || kind === "dragover");
    });
  }
  document.addEventListener("drop", (event) => {
    const [file] = event.dataTransfer.files;
    if (file) upload(file, file.name);
  });
}

start().catch((error) => showError(error.message));
