// Building the page. Whatever comes from documents and models enters it as text nodes, never as markup.

/** The element with an id. */
export function $(id) {
  return document.getElementById(id);
}

/** An element with properties and children; strings among these become text nodes. */
export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-") || name === "role") made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...children);
  return made;
}

/** The text in which some parts, given as [start, end] in characters, are marked; parts must not overlap. */
export function marked(text, parts) {
  const characters = Array.from(text);
  const nodes = [];
  let end = 0;
  for (const [from, to] of parts) {
    nodes.push(characters.slice(end, from).join(""));
    nodes.push(element("mark", {}, characters.slice(from, to).join("")));
    end = to;
  }
  return [...nodes, characters.slice(end).join("")];
}

/** Where a passage stands: its file, and the page or line in it. */
export function place(passage) {
  const where = element("cite", {}, element("bdi", {}, passage.source));
  return passage.place ? [where, " ", element("span", { className: "place" }, passage.place)] : [where];
}

/** A percentage as people write it. */
export function percent(probability) {
  if (probability > 0 && probability < 0.001) return "<0.1%";
  return `${(100 * probability).toFixed(probability < 0.1 ? 1 : 0)}%`;
}
