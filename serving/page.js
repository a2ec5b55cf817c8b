const byId = (id) => document.getElementById(id);
const MODEL = document.body.dataset.model;
const log = byId("log");
const question = byId("question");
const slider = byId("threshold");
const tip = byId("tip");
const KEY = "nudged pair: API key";

let turns = [];
let running = null; // the AbortController of the answers that are being written
let threshold = null; // what is sent; null: the server's default, not known yet
let about = {}; // what /v1/models tells about the pair
let key = storedKey();

function say(text) {
  byId("status").textContent = visible(text);
}

function storedKey() {
  try {
    return sessionStorage.getItem(KEY) || "";
  } catch {
    return ""; // no storage is allowed here
  }
}

function askForKey() {
  byId("key-form").hidden = false;
  byId("key").focus();
}

// ---- models and the threshold

async function readModels() {
  try {
    const { data } = await (await fetched("v1/models", key)).json();
    about = data.find((entry) => entry.id === MODEL)?.nudging ?? {};
  } catch (error) {
    byId("models").textContent = visible(`The models could not be listed. ${error.message}`);
    if (error.status === 401) askForKey();
    return false;
  }
  if (about.base_model && about.nudging_model) {
    byId("models").textContent = visible(`${about.base_model}, nudged by ${about.nudging_model}`);
  }
  if (threshold === null && typeof about.top_prob_thres === "number") threshold = about.top_prob_thres;
  // The slider goes from 0 to 1, as the paper's criterion does; of another one the server's number holds.
  slider.closest("p").hidden = Boolean(about.criterion) && about.criterion !== "top_prob";
  showThreshold();
  return true;
}

function showThreshold() {
  const text = threshold === null ? "default" : thresholdText(threshold);
  if (threshold !== null) slider.value = threshold;
  slider.setAttribute("aria-valuetext", text); // a default between two steps is what it is
  byId("threshold-value").textContent = text;
}

function thresholdText(value) {
  return Number.isInteger(Math.round(value * 1e6) / 1e4) ? value.toFixed(2) : String(value);
}

// ---- asking

// The conversation is the pair's, in all columns: they are asked the same.
function messagesFor(turn) {
  const messages = [];
  const system = byId("system").value;
  if (system.trim()) messages.push({ role: "system", content: system });
  for (const { text, answers } of turns.slice(0, turns.indexOf(turn))) {
    const answer = answers.find(({ kind }) => kind === "pair");
    if (!answer.counts) continue;
    messages.push({ role: "user", content: text }, { role: "assistant", content: answer.writing.text });
  }
  return [...messages, { role: "user", content: turn.text }];
}

function newTurn(text) {
  const detail = threshold === null ? "" : `threshold ${thresholdText(threshold)}`;
  const kinds = [["pair", MODEL, detail]];
  if (byId("side").checked) {
    kinds.unshift(["base", `${MODEL}@base`, about.base_model ?? ""], ["nudging", `${MODEL}@nudging`, about.nudging_model ?? ""]);
  }
  const turn = { text };
  turn.answers = kinds.map((kind) => new Answer(...kind, threshold, (answer) => run(turn, [answer])));
  const columns = element("div", kinds.length > 1 ? "columns side" : "columns", ...turn.answers.map(({ column }) => column));
  const heading = element("h2", "", `Question ${turns.length + 1}`);
  log.append(element("article", "card", heading, element("p", "text question", text), columns));
  turns.push(turn);
  return turn;
}

async function write(turn, answer, signal) {
  const request = { model: answer.model, messages: messagesFor(turn) };
  if (answer.kind === "pair" && answer.threshold !== null) request.top_prob_thres = answer.threshold;
  try {
    for await (const chunk of chunksOf(request, key, signal)) {
      answer.take(chunk);
      keepUp(answer);
    }
    answer.end("done");
  } catch (error) {
    if (signal.aborted) answer.end("stopped");
    else answer.end("failed", error.message);
    if (error.status === 401) askForKey();
    if (!signal.aborted && !(error instanceof ReplyError)) console.error(error);
  }
  keepUp(answer);
}

async function run(turn, answers) {
  if (running) return say("Another answer is being written.");
  const controller = new AbortController();
  running = controller;
  for (const answer of answers) if (answer.state !== "running") answer.start();
  byId("send").textContent = "Stop";
  say("");
  await Promise.all(answers.map((answer) => write(turn, answer, controller.signal)));
  if (running !== controller) return; // a new chat has begun
  running = null;
  byId("send").textContent = "Send";
  if (document.activeElement === document.body) question.focus(); // "Send again" was pressed, and is gone
  const ends = answers.map((a) => `${TITLES[a.kind]}: ${a.error.textContent} ${a.notes.textContent}`);
  say((answers.length === 1 ? `${answers[0].place.textContent}\n` : "") + ends.join(". "));
}

function send() {
  const text = question.value.trim();
  if (!text) return;
  question.value = "";
  pageFollower.follows = true;
  run(newTurn(text), turns.at(-1).answers);
  keepUp();
}

function stop() {
  running?.abort();
}

// ---- scrolling: with the text, while the reader is at the bottom

const pageFollower = new Follower(document.documentElement, window);
const grown = new Set(); // answers with more text than was drawn
let frame = null;

function keepUp(answer) {
  if (answer) grown.add(answer);
  frame ??= requestAnimationFrame(() => {
    frame = null;
    for (const answer of grown) answer.keepUp();
    grown.clear();
    pageFollower.keepUp();
    moveTip();
  });
}

// ---- marks: what the base model thought at a take-over

let tipped = null;

function showTip(mark) {
  hideTip();
  tipped = mark;
  mark.setAttribute("aria-describedby", "tip");
  tip.textContent = mark.dataset.note;
  tip.hidden = false;
  placeTip();
}

function placeTip() {
  const { left, bottom } = [...tipped.getClientRects()].at(-1);
  const box = tipped.parentElement.getBoundingClientRect();
  tip.style.visibility = bottom < box.top || bottom > box.bottom + 8 ? "hidden" : "visible"; // scrolled out of its column
  tip.style.left = tip.style.top = "0"; // or it may be what makes the page wide
  const furthest = document.documentElement.clientWidth - tip.offsetWidth - 8;
  tip.style.left = `${Math.max(8, Math.min(left, furthest)) + scrollX}px`;
  tip.style.top = `${bottom + scrollY}px`;
}

function moveTip() {
  if (tipped?.isConnected) placeTip();
  else hideTip(); // its answer is being written anew
}

function hideTip() {
  tipped?.removeAttribute("aria-describedby");
  tipped = null;
  tip.hidden = true;
}

function markOf(target) {
  return target instanceof Element ? target.closest("#log mark") : null;
}

function leaveTip({ relatedTarget }) {
  if (tipped && relatedTarget !== tip && markOf(relatedTarget) !== tipped && document.activeElement !== tipped) hideTip();
}

const STEPS = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity };

function moveAmongMarks(event) {
  const mark = markOf(event.target);
  if (!mark || !(event.key in STEPS)) return;
  const marks = [...mark.parentElement.querySelectorAll("mark")];
  const next = Math.min(Math.max(marks.indexOf(mark) + STEPS[event.key], 0), marks.length - 1);
  event.preventDefault();
  marks[next].focus();
}

log.addEventListener("pointerover", ({ target }) => markOf(target) && showTip(markOf(target)));
log.addEventListener("pointerout", leaveTip);
tip.addEventListener("pointerout", leaveTip);
log.addEventListener("focusin", ({ target }) => {
  const mark = markOf(target);
  if (!mark) return;
  for (const other of mark.parentElement.querySelectorAll("mark[tabindex='0']")) other.tabIndex = -1;
  mark.tabIndex = 0;
  showTip(mark);
});
log.addEventListener("focusout", ({ target }) => markOf(target) && hideTip());
log.addEventListener("keydown", moveAmongMarks);
log.addEventListener("scroll", moveTip, true);
addEventListener("resize", moveTip);

// ---- the composer

byId("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  if (!running) send();
  else if (event.submitter) stop();
});
byId("send").addEventListener("click", (event) => {
  if (event.detail > 1) event.preventDefault(); // a double click on Send is no Stop
});
question.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing || event.keyCode === 229) return;
  event.preventDefault();
  byId("ask").requestSubmit();
});
addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || event.isComposing) return;
  hideTip();
  stop();
});
slider.addEventListener("input", () => {
  threshold = Number(slider.value);
  showThreshold();
});
byId("system").addEventListener("input", () => {
  byId("system-used").textContent = byId("system").value.trim() ? "(in use)" : "";
});
byId("new").addEventListener("click", () => {
  stop();
  running = null;
  byId("send").textContent = "Send";
  turns = [];
  hideTip();
  log.replaceChildren();
  say("A new chat has begun.");
  question.focus();
});
byId("key-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const given = byId("key").value.trim();
  if (!/^[\x21-\x7e]+$/.test(given)) {
    byId("key-note").textContent = "A key consists of letters, digits and signs of ASCII, without spaces.";
    return;
  }
  key = given;
  try {
    sessionStorage.setItem(KEY, key);
  } catch {
    // no storage is allowed here: the key lasts until the page is left
  }
  byId("key").value = "";
  if (await readModels()) {
    byId("key-form").hidden = true;
    say("The server takes this key.");
    question.focus();
  } else byId("key-note").textContent = byId("models").textContent;
});

byId("composer").hidden = false;
question.focus();
showThreshold();
readModels();
