// A continuation as it is written: each token tinted by how little the model expected it, with the alternatives that it
// had, in a box that opens on hover, focus and click.
//
// Worth knowing: tokens are cut out of the text by their offsets, not joined from their own texts, since a token may be
// only a part of a character. Offsets count characters (code points), not JavaScript's UTF-16 units.

import { element, percent } from "./dom.js";

const TINT_NATS = 6; // a token of this surprise, or more, has the full tint
const HIDE_MS = 200; // between two lines of text the pointer is on neither

/** Blanks and control characters made visible. */
function visible(text) {
  if (text === "") return "(nothing)";
  return text
    .replace(/\n/g, "↵")
    .replace(/\t/g, "⇥")
    .replace(/^ +| +$/g, (blanks) => "␣".repeat(blanks.length))
    .replace(/[\p{Cc}\p{Cf}]/gu, "·");
}

export class TokenText {
  /**
   * container: where the text goes, which is emptied.
   * onChoose(textBefore, alternative): called when another token is chosen in the place of one; null: cannot be.
   */
  constructor(container, onChoose = null) {
    this.container = container;
    this.onChoose = onChoose;
    this.characters = [];
    this.tokens = [];
    this.box = element("div", { className: "alternatives", hidden: true, id: `${container.id}-alternatives` });
    this.words = element("span", { className: "tokens", role: "group" });
    this.words.setAttribute("aria-label", "Continuation; arrow keys move between tokens");
    container.replaceChildren(this.words, this.box);
    this.words.addEventListener("mouseover", (event) => this.#show(this.#at(event)));
    this.words.addEventListener("click", (event) => this.#show(this.#at(event)));
    this.words.addEventListener("focusin", (event) => this.#show(this.#at(event)));
    this.words.addEventListener("keydown", (event) => this.#move(event));
    this.box.addEventListener("keydown", (event) => this.#moveInBox(event));
    container.addEventListener("mouseleave", () => (this.hiding = setTimeout(() => this.#hide(), HIDE_MS)));
    container.addEventListener("mouseenter", () => clearTimeout(this.hiding));
    container.addEventListener("focusout", (event) => {
      if (!container.contains(event.relatedTarget)) this.#hide();
    });
  }

  get text() {
    return this.characters.join("");
  }

  /** Add a piece of text, with its tokens: [{offset, logprob, alternatives: [[text, logprob], ...]}, ...]. */
  append(text, tokens) {
    for (const character of text) this.characters.push(character);
    let first = Math.max(0, this.tokens.length - 1); // the last token may have got more text
    for (const token of tokens) {
      token.element = element("span", { className: "token", tabIndex: -1, role: "button" });
      token.element.style.setProperty("--surprise", Math.min(1, -token.logprob / TINT_NATS).toFixed(3));
      token.element.setAttribute("aria-describedby", this.box.id);
      this.tokens.push(token);
      this.words.append(token.element);
    }
    while (first > 0 && this.tokens[first - 1].element.hidden) first--;
    for (let i = first; i < this.tokens.length; i++) {
      const end = this.tokens[i + 1]?.offset ?? this.characters.length;
      const shown = this.characters.slice(this.tokens[i].offset, end).join("");
      this.tokens[i].element.textContent = shown;
      this.tokens[i].element.hidden = shown === "";
    }
    const reachable = this.tokens.find((token) => !token.element.hidden);
    if (reachable && !this.words.querySelector("[tabindex='0']")) reachable.element.tabIndex = 0;
  }

  #at(event) {
    return this.tokens.find((token) => token.element === event.target);
  }

  #show(token) {
    if (!token) return;
    this.current?.element.classList.remove("current");
    this.current = token;
    token.element.classList.add("current");
    const row = ([text, logprob]) => {
      const bar = element("span", { className: "bar" });
      bar.style.setProperty("--p", Math.exp(logprob).toFixed(4));
      const share = element("span", { className: "p" }, percent(Math.exp(logprob)));
      const cells = [element("bdi", {}, visible(text)), bar, share];
      const isOwn = text === token.text;
      if (isOwn || !this.onChoose) return element("div", { className: isOwn ? "own" : "" }, ...cells);
      const button = element("button", { type: "button", title: "Take this one and continue from here" }, ...cells);
      button.addEventListener("click", () => {
        this.#hide();
        this.onChoose(this.characters.slice(0, token.offset).join(""), text);
      });
      return button;
    };
    const others = token.alternatives.filter(([text]) => text !== token.text);
    const all = [[token.text, token.logprob], ...others].sort((a, b) => b[1] - a[1]);
    this.box.replaceChildren(...all.map(row));
    this.box.hidden = false;
    this.#place(token.element);
  }

  #place(anchor) {
    const around = this.box.offsetParent.getBoundingClientRect();
    const { left, bottom } = anchor.getClientRects()[0]; // of a token in two lines, the first
    const most = Math.max(0, around.width - this.box.offsetWidth);
    this.box.style.left = `${Math.min(most, Math.max(0, left - around.left))}px`;
    this.box.style.top = `${bottom - around.top}px`;
  }

  #hide() {
    this.box.hidden = true;
    this.current?.element.classList.remove("current");
    this.current = null;
  }

  #move(event) {
    const shown = this.tokens.filter((token) => !token.element.hidden);
    const at = shown.findIndex((token) => token.element === event.target);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: shown.length - 1 }[event.key];
    if (to !== undefined && shown[to]) {
      event.preventDefault();
      event.target.tabIndex = -1;
      shown[to].element.tabIndex = 0;
      shown[to].element.focus();
    } else if (event.key === "ArrowDown" || event.key === "Enter") {
      event.preventDefault();
      this.box.querySelector("button")?.focus();
    } else if (event.key === "Escape") {
      this.#hide();
    }
  }

  #moveInBox(event) {
    const buttons = [...this.box.querySelectorAll("button")];
    const to = buttons.indexOf(event.target) + ({ ArrowDown: 1, ArrowUp: -1 }[event.key] ?? NaN);
    if (event.key === "Escape" || to < 0) {
      event.preventDefault();
      this.current?.element.focus();
    } else if (buttons[to]) {
      event.preventDefault();
      buttons[to].focus();
    }
  }
}

/** The tokens of a chunk of /v1/completions. */
export function completionTokens(logprobs) {
  if (!logprobs) return [];
  return logprobs.tokens.map((text, i) => ({
    text,
    offset: logprobs.text_offset[i],
    logprob: logprobs.token_logprobs[i],
    alternatives: Object.entries(logprobs.top_logprobs[i] ?? {}),
  }));
}

/** The tokens of a chunk of /v1/chat/completions, whose text begins at an offset. */
export function chatTokens(piece, content, start) {
  if (!content?.length) return [];
  let offset = start;
  const tokens = content.map((one) => {
    const token = {
      text: one.token,
      offset,
      logprob: one.logprob,
      alternatives: one.top_logprobs.map((other) => [other.token, other.logprob]),
    };
    offset += Array.from(one.token).length;
    return token;
  });
  // Of tokens that are parts of characters only the first is kept: it stands for all.
  return content.map((one) => one.token).join("") === piece ? tokens : tokens.slice(0, 1);
}
