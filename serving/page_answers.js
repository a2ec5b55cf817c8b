// Answers as the page shows them. Texts of models, users and servers are untrusted: they reach the page through text nodes alone.

function button(className, label, name, act) {
  const made = element("button", className, label);
  made.type = "button";
  made.setAttribute("aria-label", name);
  made.addEventListener("click", act);
  return made;
}

function percent(share) {
  return `${(100 * share).toFixed(1)}\u00a0%`;
}

function takeOver(topProb) {
  if (typeof topProb !== "number") return "The base model was not asked here.";
  return `The base model's top probability here: ${percent(topProb)}`;
}

// A chunk's text by its writers.
function piecesOf(chunk) {
  const content = chunk.choices?.[0]?.delta?.content;
  const pieces = chunk.nudging?.pieces;
  if (typeof content !== "string" || !content) return [];
  const told = Array.isArray(pieces) && pieces.map((piece) => piece?.text).join("") === content;
  return told ? pieces : [{ text: content, by: "unknown" }];
}

// An answer's text as it grows: a text node, a mark, a text node, and so on, whatever number of pieces they came in.
class Writing {
  constructor(place, marked) {
    Object.assign(this, { place, marked, text: "", mark: null, topProb: null, tail: document.createTextNode("") });
    place.replaceChildren(this.tail);
  }

  add({ text, by, top_prob: topProb = null }) {
    this.text += text;
    if (this.marked && by === "nudging") this.nudged(text, topProb);
    else if (text) {
      this.mark = null;
      this.tail.appendData(visible(text));
    }
  }

  // White space around the words stays outside the mark.
  nudged(text, topProb) {
    const words = text.trim();
    const start = text.indexOf(words);
    if (words) {
      const before = visible(text.slice(0, start));
      if (this.mark && this.topProb === topProb) {
        this.mark.firstChild.appendData(this.tail.data + before + visible(words));
        this.tail.data = "";
      } else {
        this.tail.appendData(before);
        this.startMark(words, topProb);
      }
    }
    this.tail.appendData(visible(text.slice(words ? start + words.length : 0)));
  }

  startMark(words, topProb) {
    this.mark = element("mark", "", words);
    this.topProb = topProb;
    this.mark.dataset.note = takeOver(topProb);
    this.mark.tabIndex = this.place.querySelector("mark") ? -1 : 0; // one stop of the Tab key; arrow keys go on
    this.tail = document.createTextNode("");
    this.place.append(this.mark, this.tail);
  }
}

// A box that is scrolled with the text in it, unless its reader has scrolled up.
class Follower {
  constructor(box, scrolls = box) {
    Object.assign(this, { box, follows: true, scrolled: 0 });
    scrolls.addEventListener("scroll", () => this.look());
  }

  look() {
    const { scrollTop, clientHeight, scrollHeight } = this.box;
    if (scrollTop + clientHeight >= scrollHeight - 40) this.follows = true;
    else if (scrollTop < this.scrolled) this.follows = false;
    this.scrolled = scrollTop;
  }

  keepUp() {
    if (!this.follows) return;
    this.box.scrollTop = this.box.scrollHeight;
    this.scrolled = this.box.scrollTop; // the reader may scroll up before the event comes
  }
}

const TITLES = { base: "Base model alone", nudging: "Nudging model alone", pair: "Pair" };

// One model's answer to one question.
class Answer {
  constructor(kind, model, detail, threshold, askAgain) {
    Object.assign(this, { kind, model, threshold });
    const title = TITLES[kind];
    this.place = element("div", "text answer");
    this.error = element("p", "text error");
    this.notes = element("p", "notes");
    this.copy = button("minor", "Copy", `Copy: ${title}`, () => this.copyText());
    this.again = button("minor again", "Send again", `Send again: ${title}`, () => askAgain(this));
    const heading = element("h3", "", title, " ", element("small", "", detail));
    const header = element("header", "", heading, this.copy);
    this.column = element("section", "column", header, this.place, this.error, this.notes, this.again);
    this.column.setAttribute("aria-label", title);
    this.follower = new Follower(this.place);
    this.start();
  }

  start() {
    Object.assign(this, { state: "running", usage: null, figures: {}, finish: null, told: true, started: performance.now() });
    this.writing = new Writing(this.place, this.kind === "pair");
    this.error.textContent = "";
    this.show();
  }

  take(chunk) {
    for (const piece of piecesOf(chunk)) {
      if (piece.by === "unknown") this.told = false;
      this.writing.add(piece);
    }
    if (chunk.usage) this.usage = chunk.usage;
    this.finish = chunk.choices?.[0]?.finish_reason ?? this.finish;
    if (chunk.nudging?.stop_reason) this.figures = chunk.nudging;
  }

  // state: done, stopped or failed
  end(state, message = "") {
    this.state = state;
    this.seconds = (performance.now() - this.started) / 1000;
    if (!this.writing.text && state === "done") this.place.replaceChildren(element("span", "nothing", "(empty)"));
    this.error.textContent = visible(message);
    this.show();
  }

  show() {
    const running = this.state === "running";
    this.column.setAttribute("aria-busy", running);
    this.place.hidden = this.state === "failed" && !this.writing.text;
    this.error.hidden = !this.error.textContent;
    this.copy.hidden = running || !this.writing.text;
    this.again.hidden = running || this.state === "done";
    this.notes.textContent = running ? "" : visible(this.noteTexts().join(" · "));
  }

  // After what was taken has been drawn.
  keepUp() {
    this.follower.keepUp();
    const scrolls = getComputedStyle(this.place).overflowY === "auto" && this.place.scrollHeight > this.place.clientHeight;
    if (scrolls) this.place.tabIndex = 0; // for the keys that scroll it
  }

  // Whether later questions are sent with this answer.
  get counts() {
    return this.state === "done" || (this.state === "stopped" && this.writing.text !== "");
  }

  noteTexts() {
    const why = String(this.figures.stop_reason ?? this.finish ?? "not told").replaceAll("_", " ");
    const texts = [{ done: `stop: ${why}`, stopped: "stopped by you", failed: "failed" }[this.state]];
    if (this.kind === "pair") {
      if (typeof this.figures.rate === "number") texts.push(`${percent(this.figures.rate)} nudged`);
      if (!this.told) texts.push("of some words it is not known who wrote them");
      if (!this.counts) texts.push("left out of what follows");
    }
    const tokens = this.usage?.completion_tokens;
    if (typeof tokens === "number") texts.push(`${tokens.toLocaleString("en")}\u00a0token${tokens === 1 ? "" : "s"}`);
    return [...texts, `${this.seconds.toFixed(1)}\u00a0s`];
  }

  async copyText() {
    const copied = await copy(this.writing.text);
    this.copy.textContent = copied ? "Copied" : "Copying is not allowed";
    say(this.copy.textContent);
    setTimeout(() => (this.copy.textContent = "Copy"), 2000);
  }
}

// The clipboard's interface is there on localhost and over https alone.
async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const field = element("textarea", "said");
    field.value = text;
    const focused = document.activeElement;
    document.body.append(field);
    field.select();
    const copied = document.execCommand("copy");
    field.remove();
    focused?.focus();
    return copied;
  }
}
