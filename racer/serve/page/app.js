// The chat: what is said, who is asked, what is shown.

import { AnswerView, element, problem, verdict } from "./answer.js";
import { ask, modelName } from "./api.js";
import * as settings from "./settings.js";

const find = (id) => document.getElementById(id);
const log = find("log");
const question = find("question");
const status = find("status");
const welcome = find("welcome");

/** The turns so far: `{question, answer, place}`; `answer` is null where none came. */
let turns = [];
/** Aborts what is being answered; null when nothing is. */
let running = null;

function messages(last) {
  const said = settings.system() ? [{ role: "system", content: settings.system() }] : [];
  for (const turn of turns) {
    if (turn.answer === null) continue; // a question that failed is not asked again with the next one
    said.push({ role: "user", content: turn.question }, { role: "assistant", content: turn.answer });
  }
  return [...said, { role: "user", content: last }];
}

function setRunning(controller) {
  running = controller;
  find("send").hidden = controller !== null;
  find("stop").hidden = controller === null;
  find("new-chat").disabled = controller !== null;
  for (const button of log.querySelectorAll(".retry")) button.disabled = controller !== null;
}

async function converse(text) {
  const turn = { question: text, answer: null, place: element("section", "turn") };
  const told = messages(text);
  turns.push(turn);
  welcome.remove();
  for (const button of log.querySelectorAll(".retry")) button.remove();
  turn.place.append(element("p", "question", text));
  log.append(turn.place);
  const controller = new AbortController();
  setRunning(controller);
  status.textContent = "Answering.";
  try {
    await answer(turn, { messages: told, ...settings.sampling() }, controller.signal);
  } finally {
    setRunning(null);
    turn.place.append(retryButton());
    follow(true);
    if (document.activeElement === document.body) question.focus(); // where the Stop button was
  }
}

/** One answer, or two to compare, the second one after the first: beside each other both would be slower. */
async function answer(turn, body, signal) {
  const comparing = settings.compares();
  const place = element("div", comparing ? "answers two" : "answers");
  turn.place.append(place);
  const ours = new AnswerView(place, comparing ? "With drafts" : "Answer");
  const done = await stream(ours, { ...body, racer: { show_drafted: true } }, turn, signal);
  turn.answer = ours.text || null;
  if (!done || !comparing) {
    if (done) status.textContent = `${ours.text} ${ours.line.textContent}`;
    return;
  }
  const plain = new AnswerView(place, "Plain decoding");
  if (await stream(plain, { ...body, racer: { show_drafted: true, draft: false } }, turn, signal)) {
    turn.place.append(verdict(ours, plain));
    status.textContent = turn.place.lastChild.textContent;
  }
}

/** Whether it came to its end. */
async function stream(view, body, turn, signal) {
  follow(true);
  try {
    for await (const event of ask(body, settings.key(), signal)) {
      if (event.text) view.add(event.text, event.drafted);
      else view.end(event.finish, event.figures);
      follow(false);
    }
    return true;
  } catch (error) {
    const stopped = error.name === "AbortError";
    view.halt(stopped ? "stopped" : "");
    status.textContent = stopped ? "Stopped." : "";
    if (!stopped) show(error, turn.place);
    return false;
  }
}

function show(error, place) {
  if (error.status === 401) settings.reveal("api-key");
  place.append(problem(error.message));
  console.error(error);
}

function retryButton() {
  const button = element("button", "retry", "Retry");
  button.type = "button";
  button.addEventListener("click", () => {
    if (!settings.valid()) return;
    const turn = turns.pop();
    turn.place.remove();
    converse(turn.question);
  });
  return button;
}

/** Keep the end in view, unless the user has scrolled away from it. */
function follow(always) {
  const page = document.scrollingElement;
  const near = page.scrollHeight - page.scrollTop - page.clientHeight < 120;
  if (always || near) page.scrollTop = page.scrollHeight;
}

function newChat() {
  turns = [];
  log.replaceChildren(welcome);
  status.textContent = "A new chat.";
  question.focus();
}

async function introduce() {
  try {
    find("model").textContent = await modelName(settings.key());
  } catch (error) {
    find("model").textContent = error.status === 401 ? "needs an API key: see the settings" : error.message;
  }
}

find("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = question.value.trim();
  if (!text || running || !settings.valid()) return;
  question.value = "";
  converse(text);
});

question.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    find("composer").requestSubmit();
  }
});

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") running?.abort();
});
find("stop").addEventListener("click", () => running?.abort());
find("new-chat").addEventListener("click", newChat);
find("settings-form").addEventListener("submit", (event) => event.preventDefault());

function applied(id) {
  if (id === "highlight") log.classList.toggle("highlighting", settings.highlights());
  if (id === "api-key") introduce();
}

settings.prepare(applied);
applied("highlight");
introduce();
