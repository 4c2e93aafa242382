// One answer on the page. The model's text only ever becomes text nodes.

const WORDS = { length: "cut at the length limit", stop: "" };

function element(kind, className, text = "") {
  const made = document.createElement(kind);
  made.className = className;
  made.textContent = text;
  return made;
}

export class AnswerView {
  /** Appends itself to `place`; `title` says how it is decoded. */
  constructor(place, title) {
    this.root = element("article", "answer");
    this.root.setAttribute("aria-busy", "true");
    this.text = "";
    this.drafted = null; // the kind of the last piece
    this.started = null;
    this.body = element("p", "text");
    this.line = element("p", "figures", "…");
    this.root.append(element("h2", "", title), this.body, this.line);
    place.append(this.root);
  }

  add(text, drafted) {
    this.started ??= performance.now();
    if (drafted !== this.drafted) {
      this.body.append(element("span", drafted ? "drafted" : "", text));
      this.drafted = drafted;
    } else {
      this.body.lastChild.firstChild.appendData(text);
    }
    this.text += text;
    const seconds = (performance.now() - this.started) / 1000;
    if (seconds > 0.2) this.line.textContent = `${Math.round(this.text.length / seconds)} characters/s`;
  }

  end(finish, figures) {
    this.root.setAttribute("aria-busy", "false");
    this.speed = figures?.tokens_per_second ?? null;
    const parts = [];
    if (figures?.mean_accepted_tokens) parts.push(`${figures.mean_accepted_tokens.toFixed(2)} tokens a step`);
    if (figures?.drafted) parts.push(`${figures.accepted} of ${figures.drafted} drafted accepted`);
    if (WORDS[finish] ?? finish) parts.push(WORDS[finish] ?? finish);
    this.line.textContent = "";
    if (this.speed !== null) this.line.append(element("strong", "speed", `${this.speed.toFixed(1)} tokens/s`));
    const rest = parts.join(" · ");
    this.line.append(this.speed !== null && rest ? ` · ${rest}` : rest);
  }

  /** It was stopped, or failed: what came stays. */
  halt(word) {
    this.root.setAttribute("aria-busy", "false");
    this.line.textContent = word;
  }
}

/** How two answers compare, in words. */
export function verdict(drafted, plain) {
  const parts = element("p", "verdict");
  if (drafted.speed && plain.speed) {
    parts.append(element("strong", "speedup", `${(drafted.speed / plain.speed).toFixed(2)}×`), " the speed of plain decoding; ");
  }
  if (drafted.text === plain.text) {
    parts.append("the texts are equal.");
  } else {
    let place = 0;
    while (drafted.text[place] === plain.text[place]) place += 1;
    parts.append(`the texts differ from character ${place + 1} on (rounding can decide between two tokens that are about as likely).`);
  }
  return parts;
}

export function problem(message) {
  const box = element("p", "error", message);
  box.setAttribute("role", "alert");
  return box;
}

export { element };
