// Where a text comes from: its parts that stand word for word in the training documents, and passages of documents.

import { element, marked, place } from "./dom.js";

/** The spans that do not overlap, in the order of the text; of those that do, the one with the most information. */
function apart(spans) {
  const taken = [];
  for (const span of spans) {
    if (taken.every((other) => span.end <= other.start || other.end <= span.start)) taken.push(span);
  }
  return taken.sort((a, b) => a.start - b.start);
}

/** Show what /trace says: the text with its spans, each a button that opens its documents in the panel. */
export function showTrace(traced, paper, panel) {
  const characters = Array.from(traced.text);
  const spans = apart(traced.spans);
  const nodes = [];
  let end = 0;
  for (const span of spans) {
    const button = element("span", { className: "span", role: "button", tabIndex: 0 }, span.text);
    button.setAttribute("aria-pressed", "false");
    const open = () => {
      for (const other of paper.querySelectorAll(".span")) other.setAttribute("aria-pressed", String(other === button));
      panel.replaceChildren(...documents(span));
    };
    button.addEventListener("click", open);
    button.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      open();
    });
    nodes.push(characters.slice(end, span.start).join(""), button);
    end = span.end;
  }
  paper.replaceChildren(...nodes, characters.slice(end).join(""));
  panel.replaceChildren();
  return spans.length;
}

function documents(span) {
  const times = span.count === 1 ? "once" : `${span.count.toLocaleString("en")} times`;
  const rest = span.documents.length < span.count ? `; the first ${span.documents.length} documents` : "";
  const items = span.documents.map((one) =>
    element(
      "li",
      {},
      element("p", {}, ...place(one)),
      element("pre", { dir: "auto" }, "…", one.before, element("mark", {}, span.text), one.after, "…"),
    ),
  );
  return [
    element("p", {}, `These ${span.n_tokens} tokens stand ${times} in the training documents${rest}:`),
    element("ul", { className: "found" }, ...items),
  ];
}

/** A passage that /search found, as the content of a list item. */
export function passage(found) {
  return [element("p", {}, ...place(found)), element("pre", { dir: "auto" }, ...marked(found.text, found.matches))];
}
