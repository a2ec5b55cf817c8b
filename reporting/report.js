// Texts of questions, answers and names are untrusted: they reach the page through textContent alone.

const PAGE_SIZE = 20;
const MARKS = { correct: "✓", wrong: "✗", rated: "★", unscored: "–", failed: "!" };
const { runs, nudging, questions, answers } = JSON.parse(document.getElementById("data").textContent);
const form = document.getElementById("filters");
const list = document.getElementById("list");

const scored = answers.some((answer) => answer.outcome !== "unscored");
const answersTo = questions.map(() => []);
for (const answer of answers) answersTo[answer.question].push(answer);

function labelled(label, className, ...children) {
  return element("div", "part", element("dt", "", label), element("dd", className, ...children));
}

function answerText(pieces) {
  const parts = pieces.flatMap((text, i) => {
    if (i % 2 || !text.trim()) return [text];
    const words = text.trim();
    const start = text.indexOf(words);
    return [text.slice(0, start), element("mark", "", words), text.slice(start + words.length)];
  });
  return pieces.some((text) => text) ? parts : [element("span", "nothing", "(empty)")];
}

function outcomeBadge(answer) {
  if (!scored) return "";
  const mark = element("span", "", MARKS[answer.outcome]);
  mark.setAttribute("aria-hidden", "true");
  return element("span", "outcome " + answer.outcome, mark, " " + answer.outcome);
}

function answerParts(answer) {
  const parts = [];
  if (answer.error) parts.push(labelled("Error", "text error", answer.error));
  else parts.push(labelled("Answer", "text answer", ...answerText(answer.pieces)));
  if ("cleaned" in answer) parts.push(labelled("Scored answer, after clean-up", "text", answer.cleaned || "(empty)"));
  return parts;
}

function scoreParts(answer) {
  const label = answer.outcome === "rated" ? "Score" : "Judge's reason";
  return answer.score ? [labelled(label, "text", answer.score)] : [];
}

function goldPart(question) {
  return labelled("Gold answer", "text", question.gold || "(none)");
}

function answerNumber(answer) {
  return "number" in answer ? ", answer " + answer.number : "";
}

function notes(answer) {
  return element("p", "notes", answer.notes || "");
}

function questionTitle(question, sample) {
  return (question.data_set ? question.data_set + ", " : "") + "sample " + sample;
}

function listItem(answer) {
  const question = questions[answer.question];
  const title = questionTitle(question, answer.sample) + answerNumber(answer);
  const heading = element("h3", "", title, " ", element("small", "", runs[answer.run]));
  const body = element(
    "div",
    "body",
    element("dl", "", labelled("Question", "text question", question.text), ...answerParts(answer)),
    element("dl", "", goldPart(question), ...scoreParts(answer)),
  );
  return element("article", "card", element("header", "", heading, outcomeBadge(answer)), body, notes(answer));
}

function sideItem(group) {
  const question = questions[group[0].question];
  const nudgedFirst = [...group.filter(isNudged), ...group.filter((answer) => !isNudged(answer))];
  const columns = nudgedFirst.map((answer) => {
    const heading = element("h4", "", runs[answer.run] + answerNumber(answer));
    const details = element("dl", "", ...answerParts(answer), ...scoreParts(answer));
    return element("section", "column", element("header", "", heading, outcomeBadge(answer)), details, notes(answer));
  });
  return element(
    "article",
    "card",
    element("header", "", element("h3", "", questionTitle(question, group[0].sample))),
    element(
      "div",
      "body",
      element("dl", "", labelled("Question", "text question", question.text)),
      element("dl", "", goldPart(question)),
    ),
    element("div", "columns", ...columns),
  );
}

// The text that is searched, made when it is first asked for.
function searchText(answer) {
  if (answer.searched === undefined) {
    const question = questions[answer.question];
    const texts = [question.text, question.gold, (answer.pieces || []).join(""), answer.error, answer.score, answer.notes];
    answer.searched = texts.join("\n").toLowerCase();
  }
  return answer.searched;
}

function differ(group) {
  const correct = group.filter((answer) => answer.outcome === "correct").length;
  return correct > 0 && correct < group.length;
}

function chosen() {
  const values = new FormData(form);
  return {
    runs: new Set(values.getAll("run").map(Number)),
    outcome: values.get("outcome"),
    search: (values.get("search") || "").trim().toLowerCase(),
    side: values.get("view") === "side",
  };
}

function isNudged(answer) {
  return nudging.includes(answer.run);
}

// Such questions come first: where no nudging run was asked, there is nothing to compare it with.
function comparesNudging(group) {
  return group.some(isNudged) && !group.every(isNudged);
}

// What the filters leave: answers, or for the side-by-side view groups of answers to one question.
function matching({ runs, outcome, search, side }) {
  const groups = answersTo.map((group) => group.filter((answer) => runs.has(answer.run)));
  const differing = outcome === "differ" ? new Set(groups.filter(differ).flat()) : null;
  const matches = (answer) =>
    (!outcome || (differing ? differing.has(answer) : answer.outcome === outcome)) &&
    (!search || searchText(answer).includes(search));
  if (side) {
    const shown = groups.filter((group) => group.some(matches));
    return [...shown.filter(comparesNudging), ...shown.filter((group) => !comparesNudging(group))];
  }
  return answers.filter((answer) => runs.has(answer.run) && matches(answer));
}

let found = [];
let side = false;
let page = 0;

function show() {
  const pages = Math.max(1, Math.ceil(found.length / PAGE_SIZE));
  page = Math.min(Math.max(page, 0), pages - 1);
  const start = page * PAGE_SIZE;
  const part = found.slice(start, start + PAGE_SIZE);
  list.replaceChildren(...part.map(side ? sideItem : listItem));
  const things = (side ? "question" : "answer") + (found.length === 1 ? "" : "s");
  document.getElementById("count").textContent = found.length
    ? `${found.length.toLocaleString("en")} ${things} found, ${start + 1} to ${start + part.length} shown`
    : "Nothing matches these filters.";
  document.getElementById("pages").hidden = pages === 1;
  document.getElementById("page").textContent = `Page ${page + 1} of ${pages}`;
  document.getElementById("previous").disabled = page === 0;
  document.getElementById("next").disabled = page === pages - 1;
}

function update() {
  const choice = chosen();
  found = matching(choice);
  side = choice.side;
  page = 0;
  show();
}

function turn(pages) {
  page += pages;
  show();
  const heading = document.getElementById("answers");
  heading.focus({ preventScroll: true });
  document.getElementById("count").scrollIntoView();
}

let typing;
form.addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(update, 150);
});
// A search field reports a change when it is left: by then the page may have been turned.
form.addEventListener("change", (event) => {
  if (event.target.type !== "search") update();
});
form.addEventListener("submit", (event) => event.preventDefault());
form.addEventListener("click", (event) => {
  if (!event.target.dataset.runs) return;
  for (const box of form.querySelectorAll("[name=run]")) box.checked = event.target.dataset.runs === "all";
  update();
});
document.getElementById("previous").addEventListener("click", () => turn(-1));
document.getElementById("next").addEventListener("click", () => turn(1));

form.hidden = false;
update();
