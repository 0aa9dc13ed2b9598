// The page: writing on from a beginning, chatting where the model has a template, searching the documents.

import { ApiError, json, setKey, stream } from "./api.js";
import { $, element, place } from "./dom.js";
import { passage, showTrace } from "./sources.js";
import * as stored from "./stored.js";
import { TokenText, chatTokens, completionTokens } from "./tokens.js";

const N_LOGPROBS = 5;
const MOST_TRACED = 20_000; // characters that /trace takes
const N_PASSAGES = 4; // given to a chat model
const MOST_QUERY = 1000; // characters that /search takes
const LEAST_S = 0.05; // in less, a speed is that of the network
const TINT_HINT =
  "Colored: tokens that the model did not expect. Point at or choose one to see what else it considered.";
const TABS = ["write", "chat", "search"];

let model = null; // what /v1/models says

// Errors

function report(error) {
  if (error.name === "AbortError") return;
  if (!(error instanceof ApiError)) console.error(error);
  if (error.status === 401) {
    $("key-form").hidden = false;
    $("key").focus();
  }
  $("error").textContent = error.message;
  $("error").hidden = false;
}

function clearError() {
  $("error").hidden = true;
}

// The model

async function load() {
  clearError();
  try {
    const { data } = await json("v1/models");
    [model] = data;
    $("key-form").hidden = true;
    $("model").textContent = model.id;
    document.title = model.id;
    $("tab-chat").hidden = !model.has_chat_template;
    openTab(location.hash.slice(1));
  } catch (error) {
    report(error);
  }
}

$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  setKey($("key").value);
  load();
});

// Tabs

function openTab(name) {
  const known = TABS.filter((one) => !$(`tab-${one}`).hidden);
  const wanted = known.includes(name) ? name : model?.has_chat_template ? "chat" : "write";
  for (const one of TABS) {
    $(one).hidden = one !== wanted;
    $(`tab-${one}`).setAttribute("aria-selected", String(one === wanted));
    $(`tab-${one}`).tabIndex = one === wanted ? 0 : -1;
  }
  document.body.dataset.tab = wanted;
}

for (const name of TABS) $(`tab-${name}`).addEventListener("click", () => (location.hash = name));
window.addEventListener("hashchange", () => openTab(location.hash.slice(1)));
$("tabs").addEventListener("keydown", (event) => {
  const shown = TABS.filter((one) => !$(`tab-${one}`).hidden);
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!step) return;
  const at = shown.indexOf(event.target.id.replace("tab-", ""));
  const next = shown[(at + step + shown.length) % shown.length];
  location.hash = next;
  $(`tab-${next}`).focus();
});

// Settings

function showSettings(settings) {
  for (const [name, value] of Object.entries(settings)) $(name).value = value;
}

/** The settings as parameters of a request; null if one of them is out of range, which the browser then says. */
function sampling() {
  const form = $("settings-form");
  if (!form.checkValidity()) {
    $("settings").open = true;
    form.reportValidity();
    return null;
  }
  const parameters = {};
  for (const name of ["temperature", "top_p", "top_k", "max_tokens", "seed"]) {
    if ($(name).value !== "") parameters[name] = Number($(name).value);
  }
  const stops = $("stop").value.split("\n").filter((line) => line !== "");
  const escapes = { n: "\n", t: "\t", "\\": "\\" };
  if (stops.length) parameters.stop = stops.map((line) => line.replace(/\\([nt\\])/g, (_, name) => escapes[name]));
  return parameters;
}

$("settings-form").addEventListener("change", () => {
  stored.writeSettings(Object.fromEntries(Object.keys(stored.DEFAULTS).map((name) => [name, $(name).value])));
});
$("settings-form").addEventListener("submit", (event) => event.preventDefault());
$("settings-form").addEventListener("reset", (event) => {
  event.preventDefault();
  showSettings(stored.DEFAULTS);
  stored.writeSettings(stored.DEFAULTS);
});

// One answer at a time

let running = null; // an AbortController while an answer is written

/** Write an answer into a text; `read` gives [piece, tokens, finish reason] of each chunk. Returns whether it ended. */
async function answer(path, body, text, read, status, buttons) {
  running?.abort();
  const own = (running = new AbortController());
  clearError();
  const [start, stop] = buttons;
  start.hidden = true;
  stop.hidden = false;
  status.textContent = "Writing…";
  let n = 0;
  let reason = null;
  let begun = 0;
  try {
    for await (const chunk of stream(path, body, own.signal)) {
      const [choice] = chunk.choices;
      if (!choice) continue;
      begun ||= performance.now();
      const [piece, tokens] = read(choice);
      text.append(piece, tokens);
      n += tokens.length;
      reason = choice.finish_reason ?? reason;
    }
  } catch (error) {
    report(error);
    reason = error.name === "AbortError" ? "stopped" : "failed";
  }
  if (running === own) {
    running = null;
    const hadFocus = document.activeElement === stop;
    start.hidden = false;
    stop.hidden = true;
    if (hadFocus) start.focus();
    const seconds = (performance.now() - begun) / 1000;
    const speed = n > 1 && seconds > LEAST_S ? `, ${Math.round((n - 1) / seconds).toLocaleString("en")} a second` : "";
    const ended = { length: "", stop: "; the text ended", stopped: "; stopped", failed: "; broken off" }[reason] ?? "";
    status.textContent = `${n} ${n === 1 ? "token" : "tokens"}${speed}${ended}`;
  }
  return reason !== "failed";
}

// Writing

let written = null; // {prompt, text: TokenText} on the paper

/** Show a prompt, and after it a continuation that is to come. */
function newPaper(prompt) {
  const after = element("span", { className: "continuation", id: "continuation" });
  $("paper").replaceChildren(element("span", { className: "prompt" }, prompt), after);
  $("result").hidden = false;
  $("sources").replaceChildren();
  $("hint").textContent = TINT_HINT;
  document.querySelector("[name=view][value=probability]").checked = true;
  written = { prompt, text: new TokenText(after, choose) };
}

async function write() {
  const parameters = sampling();
  if (!parameters) return;
  const prompt = $("beginning").value;
  newPaper(prompt);
  const own = written;
  const read = (choice) => [choice.text, completionTokens(choice.logprobs)];
  const body = { prompt, logprobs: N_LOGPROBS, ...parameters };
  const buttons = [$("continue"), $("write-stop")];
  await answer("v1/completions", body, own.text, read, $("write-status"), buttons);
  if (own.text.text) {
    stored.addToHistory({ time: Date.now(), prompt, text: own.text.text });
    showHistory();
  } else if (own === written) {
    $("hint").textContent = "";
  }
}

/** Go on from the paper's text up to a token, with another one in its place. */
async function choose(before, alternative) {
  clearError();
  try {
    // What stands for a part of a character, or for the end of the text, is another text than its name.
    const { count } = await json("tokenize", { prompt: alternative, add_special_tokens: false });
    if (count !== 1) throw new ApiError("This token is not a text of its own, so nothing can be written after it.");
  } catch (error) {
    report(error);
    return;
  }
  $("beginning").value = written.prompt + before + alternative;
  write();
}

async function showView() {
  const view = document.querySelector("[name=view]:checked").value;
  const { prompt, text } = written;
  if (view === "probability") {
    $("paper").replaceChildren(element("span", { className: "prompt" }, prompt), text.container);
    $("sources").replaceChildren();
    $("hint").textContent = TINT_HINT;
    return;
  }
  $("hint").textContent = "Looking through the training documents…";
  clearError();
  try {
    const whole = Array.from(prompt + text.text).slice(-MOST_TRACED).join("");
    const traced = await json("trace", { text: whole });
    if (written.text !== text || document.querySelector("[name=view]:checked").value !== "sources") return;
    $("hint").textContent = showTrace(traced, $("paper"), $("sources"))
      ? "Underlined: what stands word for word in the training documents. Choose a part to see where."
      : "No part of this text of eight tokens or more stands word for word in the training documents.";
  } catch (error) {
    $("hint").textContent = "";
    document.querySelector("[name=view][value=probability]").checked = true;
    report(error);
  }
}

$("write-form").addEventListener("submit", (event) => {
  event.preventDefault();
  write();
});
$("write-stop").addEventListener("click", () => running?.abort());
$("more").addEventListener("click", () => {
  $("beginning").value = written.prompt + written.text.text;
  write();
});
$("copy").addEventListener("click", async () => {
  try {
    await navigator.clipboard.writeText(written.prompt + written.text.text);
    $("write-status").textContent = "Copied";
  } catch {
    report(new ApiError("The browser does not let this page copy; mark the text and copy it by hand."));
  }
});
for (const radio of document.querySelectorAll("[name=view]")) radio.addEventListener("change", showView);
for (const [area, form] of [["beginning", "write-form"], ["message", "chat-form"]]) {
  $(area).addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) $(form).requestSubmit();
  });
}
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") running?.abort();
});

// History

function showHistory() {
  const entries = stored.readHistory();
  $("clear").hidden = entries.length === 0;
  $("entries").replaceChildren(
    ...entries.map(({ time, prompt, text }) => {
      const shown = `${prompt.slice(-60)}${text}`.trim().replace(/\s+/g, " ").slice(0, 120);
      const when = new Date(time).toLocaleString([], { dateStyle: "short", timeStyle: "short" });
      const button = element("button", { type: "button" }, element("bdi", {}, shown), element("small", {}, when));
      button.addEventListener("click", () => {
        running?.abort();
        location.hash = "write";
        $("beginning").value = prompt;
        newPaper(prompt);
        written.text.append(text, []);
        written.text.container.append(text);
        $("hint").textContent = "";
        $("write-status").textContent = "";
      });
      return element("li", {}, button);
    }),
  );
}

$("clear").addEventListener("click", () => {
  stored.clearHistory();
  showHistory();
  $("history").querySelector("summary").focus();
});

// Chat

let messages = []; // {role, content} as the server gets them

function addMessage(role, ...content) {
  const name = element("h2", {}, role === "user" ? "You" : (model?.id ?? "Model"));
  const text = element("div", { className: "paper", dir: "auto", id: `message-${messages.length}` }, ...content);
  const shown = element("article", { className: role }, name, text);
  $("messages").append(shown);
  return [shown, text];
}

/** The question with the passages that answer it best, as many of them as there is room for. */
async function withPassages(question, room) {
  const query = new URLSearchParams({ q: question.slice(0, MOST_QUERY), limit: N_PASSAGES });
  const { passages } = await json(`search?${query}`);
  for (let n = passages.length; n > 0; n--) {
    const given = passages.slice(0, n);
    const listed = given.map((one, i) => `[${i + 1}] ${one.source}${one.place && `, ${one.place}`}\n${one.text}`);
    const content =
      "Answer the question from these passages, and name the numbers of those that you use, like [1].\n\n" +
      `${listed.join("\n\n")}\n\nQuestion: ${question}`;
    const earlier = messages.map((one) => one.content).join("\n");
    const { count } = await json("tokenize", { prompt: earlier + content });
    if (count <= room) return [content, given];
  }
  return [question, []];
}

/** The passages that an answer was given; those that it names are marked. */
function citations(given, text) {
  const named = new Set([...text.matchAll(/\[(\d+)\]/g)].map((match) => Number(match[1])));
  const items = given.map((one, i) => {
    const cited = named.has(i + 1) ? element("strong", {}, " cited") : "";
    return element(
      "details",
      {},
      element("summary", {}, `[${i + 1}] `, ...place(one), cited),
      element("pre", { dir: "auto" }, one.text),
    );
  });
  const heading = element("p", { className: "hint" }, "Passages it was given:");
  return element("div", { className: "citations" }, heading, ...items);
}

async function chat(question) {
  const parameters = sampling();
  if (!parameters) return;
  clearError();
  let content = question;
  let given = [];
  if ($("with-documents").checked) {
    try {
      const room = model.max_model_len - parameters.max_tokens - 32; // what the template adds
      [content, given] = await withPassages(question, room);
    } catch (error) {
      report(error);
      return;
    }
  }
  addMessage("user", question);
  messages.push({ role: "user", content });
  const [shown, container] = addMessage("assistant");
  const text = new TokenText(container);
  const read = ({ delta, logprobs }) => {
    const piece = delta.content ?? "";
    return [piece, chatTokens(piece, logprobs?.content, text.characters.length)];
  };
  $("message").value = "";
  const own = messages;
  const body = { messages, logprobs: true, top_logprobs: N_LOGPROBS, ...parameters };
  const buttons = [$("send"), $("chat-stop")];
  const isWhole = await answer("v1/chat/completions", body, text, read, $("chat-status"), buttons);
  if (own !== messages) return; // a new chat has begun
  if (isWhole || text.text) {
    messages.push({ role: "assistant", content: text.text });
    if ($("with-documents").checked) {
      shown.append(given.length ? citations(given, text.text) : "No passage was found, or none was short enough.");
    }
  } else {
    messages.pop();
    shown.previousElementSibling.remove();
    shown.remove();
    $("message").value = question;
  }
}

$("chat-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const question = $("message").value.trim();
  if (question) chat(question);
});
$("chat-stop").addEventListener("click", () => running?.abort());
$("new-chat").addEventListener("click", () => {
  running?.abort();
  messages = [];
  $("messages").replaceChildren();
  $("chat-status").textContent = "";
  $("message").focus();
});

// Search

async function search() {
  const query = $("query").value.trim();
  if (!query) return;
  clearError();
  $("search-status").textContent = "Searching…";
  try {
    const { match, passages } = await json(`search?${new URLSearchParams({ q: query, limit: 20 })}`);
    const n = `${passages.length} ${passages.length === 1 ? "passage" : "passages"}`;
    const counted = {
      all: `${n}, the best first`,
      beginnings: `${n} with words that begin so`,
      any: `${n} with some of these words; none has them all`,
    };
    $("search-status").textContent = passages.length ? counted[match] : "No passage has any of these words.";
    $("found").replaceChildren(...passages.map((one) => element("li", {}, ...passage(one))));
  } catch (error) {
    $("search-status").textContent = "";
    $("found").replaceChildren();
    report(error);
  }
}

$("search-form").addEventListener("submit", (event) => {
  event.preventDefault();
  search();
});

showSettings(stored.readSettings());
showHistory();
if (matchMedia("(max-width: 56rem)").matches) $("settings").open = false;
load();
