"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const { space, model, recordings } = data;
  const $ = (id) => document.getElementById(id);
  const n = space.tokens.length;
  const KINDS = ["word", "word after space", "Python keyword", "digits", "punctuation", "whitespace", "other"];
  const KIND_COLORS = ["#56B4E9", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#8A8A8A"];

  // Elements are made with text only, never with markup: a token is data.
  function make(tag, properties = {}, ...children) {
    const element = document.createElement(tag);
    for (const [key, value] of Object.entries(properties)) {
      if (key in element) element[key] = value;
      else element.setAttribute(key, value);
    }
    element.append(...children);
    return element;
  }
  function bytes(text) {
    return Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  }
  const theme = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  // Vectors: 16-bit floats to 32-bit ones, and the same scaled to length 1.
  const width = model.width;
  const vectors = (() => {
    const halves = new DataView(bytes(space.vectors).buffer);
    const out = new Float32Array(n * width);
    for (let i = 0; i < out.length; i++) {
      const h = halves.getUint16(2 * i, true);
      const sign = h >> 15 ? -1 : 1, exponent = (h >> 10) & 31, fraction = h & 1023;
      out[i] = sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : 2 ** -14 * (fraction / 1024));
    }
    return out;
  })();
  const row = (matrix, i) => matrix.subarray(i * width, (i + 1) * width);
  const dot = (x, y) => { let sum = 0; for (let j = 0; j < width; j++) sum += x[j] * y[j]; return sum; };
  const lengths = Float32Array.from({ length: n }, (_, i) => Math.sqrt(dot(row(vectors, i), row(vectors, i))) || 1);
  const units = vectors.map((value, i) => value / lengths[Math.floor(i / width)]);
  const cosine = (i, j) => dot(row(units, i), row(units, j));
  function distance(i, j) {
    let sum = 0;
    for (let k = 0; k < width; k++) sum += (vectors[i * width + k] - vectors[j * width + k]) ** 2;
    return Math.sqrt(sum);
  }
  // Tokens that occur at least twice: one that hardly occurs keeps its random start.
  function best(query, without, k) {
    const size = Math.sqrt(dot(query, query)) || 1;
    const found = [];
    for (let i = 0; i < n; i++) {
      if (space.counts[i] > 1 && !without.includes(i)) found.push([i, dot(query, row(units, i)) / size]);
    }
    return found.sort((x, y) => y[1] - x[1]).slice(0, k);
  }

  // What is typed is a token as it is shown, or a word without the space before it.
  const places = new Map(space.tokens.map((token, i) => [token, i]));
  function find(text) {
    const shown = text.replace(/ /g, "␣");
    if (places.has(shown)) return places.get(shown);
    if (places.has(text)) return places.get(text);
    return places.get("␣" + shown) ?? -1;
  }
  const missing = (text) =>
    `“${text}” is not one of the tokens here: this tokenizer writes it as several, and only whole tokens have a vector.`;
  $("all-tokens").append(...space.tokens.slice(0, 4000).map((token) => make("option", { value: token })));
  $("about").textContent =
    `${model.parameters.toLocaleString("en")} weights in ${model.layers} layers; the ${n.toLocaleString("en")} most frequent of ` +
    `${model.vocabulary.toLocaleString("en")} tokens, each a vector of ${width} numbers` +
    (model.step ? `, after ${model.step.toLocaleString("en")} training steps.` : ".");

  // the map
  const canvas = $("canvas"), context = canvas.getContext("2d");
  let selected = Math.max(0, find("␣is")), points = space.maps[0].points, view = null, hovered = -1;
  $("which-map").append(...space.maps.map((one, i) => make("option", { value: i }, one.name)));
  function colorOf(i) {
    if ($("color-by").value === "kind") return KIND_COLORS[KINDS.indexOf(space.kinds[i])];
    return space.home[i] < 0 ? theme("--none") : space.colors[space.home[i]];
  }
  function wholeView() {
    const xs = points.map((p) => p[0]), ys = points.map((p) => p[1]);
    const x0 = Math.min(...xs), x1 = Math.max(...xs), y0 = Math.min(...ys), y1 = Math.max(...ys);
    return { x: (x0 + x1) / 2, y: (y0 + y1) / 2, w: (x1 - x0) * 1.12 || 1, h: (y1 - y0) * 1.12 || 1 };
  }
  const box = () => ({ w: canvas.clientWidth, h: canvas.clientHeight });
  function toScreen([x, y]) {
    const { w, h } = box();
    return [w / 2 + ((x - view.x) / view.w) * w, h / 2 - ((y - view.y) / view.h) * h];
  }
  function drawMap() {
    const { w, h } = box(), ratio = window.devicePixelRatio || 1;
    canvas.width = w * ratio; canvas.height = h * ratio;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, w, h);
    const ink = theme("--ink"), panel = theme("--panel");
    const near = best(row(units, selected), [selected], 8).map(([i]) => i);
    const size = (i) => 1.6 + 0.42 * Math.log10(1 + space.counts[i]) ** 1.6;
    for (let i = n - 1; i >= 0; i--) {
      const [x, y] = toScreen(points[i]);
      if (x < -9 || y < -9 || x > w + 9 || y > h + 9) continue;
      context.globalAlpha = 0.62;
      context.fillStyle = colorOf(i);
      context.beginPath(); context.arc(x, y, size(i), 0, 7); context.fill();
    }
    context.globalAlpha = 1;
    const from = toScreen(points[selected]);
    context.strokeStyle = theme("--accent"); context.lineWidth = 1.2;
    for (const i of near) {
      context.globalAlpha = 0.6;
      context.beginPath(); context.moveTo(...from); context.lineTo(...toScreen(points[i])); context.stroke();
    }
    context.globalAlpha = 1;
    context.beginPath(); context.arc(...from, size(selected) + 4, 0, 7); context.stroke();
    // Labels: the selected token and its neighbors first, then the most frequent; none covers another.
    context.textBaseline = "middle";
    const taken = [];
    const label = (i, strong) => {
      const [x, y] = toScreen(points[i]);
      if (x < 0 || y < 8 || x > w - 10 || y > h - 8) return false;
      context.font = `${strong ? "600 14px" : "12px"} ui-monospace, Menlo, Consolas, monospace`;
      const wide = context.measureText(space.tokens[i]).width, left = x + size(i) + 4 + wide > w ? x - size(i) - 4 - wide : x + size(i) + 4;
      const area = [left - 3, y - 9, left + wide + 3, y + 9];
      if (taken.some((t) => t[0] < area[2] && t[2] > area[0] && t[1] < area[3] && t[3] > area[1])) return false;
      taken.push(area);
      context.globalAlpha = strong ? 1 : 0.9;
      context.strokeStyle = panel; context.lineWidth = 4; context.lineJoin = "round";
      context.strokeText(space.tokens[i], left, y);
      context.fillStyle = ink;
      context.fillText(space.tokens[i], left, y);
      context.globalAlpha = 1;
      return true;
    };
    label(selected, true);
    near.forEach((i) => label(i, true));
    for (let i = 0, shown = 0; i < n && shown < w / 13; i++) shown += label(i, false);
  }
  function legend() {
    const rows = $("color-by").value === "kind"
      ? KINDS.map((name, i) => [name, KIND_COLORS[i], space.kinds.filter((kind) => kind === name).length])
      : [...space.modalities.map((name, m) => [name, space.colors[m], space.home.filter((h) => h === m).length]),
         ["none in particular", theme("--none"), space.home.filter((h) => h < 0).length]];
    $("legend").replaceChildren(...rows.filter((r) => r[2]).map(([name, color, count]) => {
      const dotElement = make("i");
      dotElement.style.background = color;
      return make("li", {}, dotElement, `${name} (${count.toLocaleString("en")})`);
    }));
    const one = space.maps[$("which-map").value];
    $("map-note").textContent = `${one.name}: ${one.about}. Two dots that lie close together may be close in all ${width} dimensions; ` +
      "the list of neighbors knows. " + ($("color-by").value === "use"
        ? "A token has the color of the modality in which it is over-represented most, compared with all others." : "");
  }
  function tokenButton(i) {
    return make("button", { type: "button", className: "link", title: space.tokens[i], onclick: () => select(i) }, space.tokens[i]);
  }
  function details() {
    const i = selected, total = space.uses[i].reduce((x, y) => x + y, 0) || 1;
    const near = best(row(units, i), [i], 10);
    const used = space.modalities.map((name, m) => [name, space.uses[i][m]]).filter((u) => u[1])
      .map(([name, count]) => `${name} ${((100 * count) / total).toFixed(count < total ? 1 : 0)}%`).join(", ");
    $("details").replaceChildren(
      make("h3", { className: "token" }, space.tokens[i]),
      make("p", { className: "soft" }, `id ${space.ids[i]}, ${space.kinds[i]}; ${space.counts[i].toLocaleString("en")} times in the training text: ${used}`),
      table([["neighbor", "cosine", "distance"], ...near.map(([j, c]) => [tokenButton(j), c.toFixed(3), distance(i, j).toFixed(2)])]),
    );
  }
  function table(rows) {
    return make("table", {}, ...rows.map((cells, r) =>
      make("tr", {}, ...cells.map((cell) => make(r ? "td" : "th", r ? {} : { scope: "col" }, cell)))));
  }
  function select(i) {
    selected = i;
    $("search").value = space.tokens[i];
    $("search-note").textContent = "";
    details();
    drawMap();
  }
  function nearestDot(x, y, limit) {
    let found = -1, least = limit ** 2;
    for (let i = 0; i < n; i++) {
      const [px, py] = toScreen(points[i]), d = (px - x) ** 2 + (py - y) ** 2;
      if (d < least) { least = d; found = i; }
    }
    return found;
  }
  function zoom(factor, x = box().w / 2, y = box().h / 2) {
    const { w, h } = box();
    const at = [view.x + (x / w - 0.5) * view.w, view.y - (y / h - 0.5) * view.h];
    view = { x: at[0] + (view.x - at[0]) * factor, y: at[1] + (view.y - at[1]) * factor, w: view.w * factor, h: view.h * factor };
    drawMap();
  }
  let drag = null;
  canvas.addEventListener("pointerdown", (event) => {
    drag = { x: event.offsetX, y: event.offsetY, view: { ...view }, moved: false };
    if (event.pointerType === "mouse") canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    const { w, h } = box();
    if (drag && event.pointerType === "mouse" && event.buttons) {
      const dx = event.offsetX - drag.x, dy = event.offsetY - drag.y;
      drag.moved ||= Math.hypot(dx, dy) > 4;
      if (drag.moved) {
        view = { ...drag.view, x: drag.view.x - (dx / w) * view.w, y: drag.view.y + (dy / h) * view.h };
        drawMap();
        return;
      }
    }
    hovered = nearestDot(event.offsetX, event.offsetY, 12);
    $("tip").hidden = hovered < 0;
    if (hovered >= 0) {
      $("tip").textContent = space.tokens[hovered];
      const [x, y] = toScreen(points[hovered]);
      $("tip").style.left = `${Math.min(x + 12, w - 120)}px`;
      $("tip").style.top = `${Math.max(y - 34, 0)}px`;
    }
  });
  canvas.addEventListener("pointerup", (event) => {
    const found = nearestDot(event.offsetX, event.offsetY, event.pointerType === "mouse" ? 14 : 26);
    if (drag && !drag.moved && found >= 0) select(found);
    drag = null;
  });
  canvas.addEventListener("pointerleave", () => { $("tip").hidden = true; });
  canvas.addEventListener("wheel", (event) => {
    if (!event.ctrlKey && document.activeElement !== canvas) return; // the page scrolls unless the map has the focus
    event.preventDefault();
    zoom(event.deltaY > 0 ? 1.15 : 1 / 1.15, event.offsetX, event.offsetY);
  }, { passive: false });
  canvas.addEventListener("keydown", (event) => {
    const directions = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    if (event.key === "+" || event.key === "=") return zoom(1 / 1.3);
    if (event.key === "-") return zoom(1.3);
    const direction = directions[event.key];
    if (!direction) return;
    event.preventDefault();
    const from = toScreen(points[selected]);
    let found = -1, least = Infinity;
    for (let i = 0; i < n; i++) {
      const to = toScreen(points[i]), dx = to[0] - from[0], dy = to[1] - from[1];
      const along = dx * direction[0] + dy * direction[1], across = Math.abs(dx * direction[1]) + Math.abs(dy * direction[0]);
      if (along > 4 && along + 3 * across < least) { least = along + 3 * across; found = i; }
    }
    if (found >= 0) select(found);
  });
  $("search").addEventListener("change", () => {
    const i = find($("search").value);
    if (i >= 0) select(i);
    else $("search-note").textContent = missing($("search").value);
  });
  $("which-map").addEventListener("change", () => {
    points = space.maps[$("which-map").value].points;
    view = wholeView(); legend(); drawMap();
  });
  $("color-by").addEventListener("change", () => { legend(); drawMap(); });
  $("reset").addEventListener("click", () => { view = wholeView(); drawMap(); });

  // How the space formed: the map of each checkpoint, on the axes of the final model.
  if (space.checkpoints.length) {
    const steps = [...space.checkpoints, { step: "the final model", points: space.maps[0].points }];
    const slider = make("input", { type: "range", min: 0, max: steps.length - 1, value: steps.length - 1, id: "step" });
    const output = make("output", {}, "the final model");
    slider.addEventListener("input", () => {
      $("which-map").value = 0;
      points = steps[slider.value].points;
      output.textContent = typeof steps[slider.value].step === "number" ? `step ${steps[slider.value].step}` : steps[slider.value].step;
      drawMap();
    });
    $("formation").append(make("div", { className: "controls" }, make("label", {}, "How the map formed ", slider), output));
  } else {
    $("formation").append(make("p", { className: "soft" },
      "How the space formed is not shown: no checkpoints were given (python -m llm explore --checkpoints FOLDER)."));
  }

  // arithmetic
  function bar(name, value, expected) {
    const line = make("div");
    line.style.width = `${Math.max(0, value) * 100}%`;
    return make("div", { className: expected ? "bar expected" : "bar" }, name, line, make("span", {}, value.toFixed(3)));
  }
  function arithmetic(expected = -1) {
    const typed = ["a", "b", "c"].map((id) => $(id).value), ranks = typed.map(find);
    const unknown = typed.filter((text, i) => ranks[i] < 0);
    $("arithmetic-answer").replaceChildren();
    if (unknown.some((text) => text === "")) return void ($("arithmetic-note").textContent = "");
    if (unknown.length) return void ($("arithmetic-note").textContent = missing(unknown[0]));
    const [a, b, c] = ranks.map((i) => row(units, i));
    const found = best(a.map((value, j) => value - b[j] + c[j]), ranks, n);
    $("arithmetic-answer").append(...found.slice(0, 8).map(([i, value]) => bar(tokenButton(i), value, i === expected)));
    const placeOf = (list) => list.findIndex(([i]) => i === expected) + 1;
    const place = placeOf(found), alone = placeOf(best(c, ranks, n)); // the control: the nearest to c alone
    $("arithmetic-note").textContent = expected < 0 ? "" :
      `Expected ${space.tokens[expected]}: ` + (place ? `it is number ${place} of ${found.length.toLocaleString("en")}; among the neighbors of c alone, it is number ${alone}.` : "it is not among the tokens shown.");
  }
  for (const id of ["a", "b", "c"]) $(id).addEventListener("change", () => arithmetic());
  $("presets").append(...data.analogies.map(({ words, ranks, pieces }) => {
    const [a, b, c, d] = words, split = Object.entries(pieces);
    return make("button", { type: "button", onclick: () => {
      ["a", "b", "c"].forEach((id, i) => { $(id).value = ranks[i] === null ? words[i] : space.tokens[ranks[i]]; });
      arithmetic(ranks[3] ?? -1);
    } }, `${a} − ${b} + ${c}`, make("small", {}, split.length
      ? `cannot be computed here: ${split.map(([word, parts]) => `${word} is ${parts.join(" + ")}`).join(", ")}` : `${d}?`));
  }));

  // tables
  let chosen = data.words.slice();
  function tables() {
    $("chosen").replaceChildren(...chosen.map((i) => make("button", {
      type: "button", className: "chip", title: "remove", "aria-label": `remove ${space.tokens[i]}`,
      onclick: () => { chosen = chosen.filter((j) => j !== i); tables(); } }, `${space.tokens[i]} ×`)));
    const k = Math.min(8, width);
    $("rows").replaceChildren(...table([
      ["token", "id", "occurrences", ...Array.from({ length: k }, (_, j) => `x${j + 1}`), width > k ? `… x${width}` : ""],
      ...chosen.map((i) => [space.tokens[i], space.ids[i], space.counts[i].toLocaleString("en"),
        ...Array.from(row(vectors, i).subarray(0, k), (x) => x.toFixed(3)), width > k ? `… ${row(vectors, i)[width - 1].toFixed(3)}` : ""]),
    ]).children);
    $("distances").replaceChildren(...table([
      ["", ...chosen.map((i) => space.tokens[i])],
      ...chosen.map((i) => [space.tokens[i], ...chosen.map((j) => i === j ? "—" :
        make("span", {}, cosine(i, j).toFixed(2), make("small", {}, distance(i, j).toFixed(2))))]),
    ]).children);
    for (const [r, line] of [...$("distances").rows].slice(1).entries()) {
      for (const [c, cell] of [...line.cells].slice(1).entries()) {
        if (r !== c) cell.style.background = `rgb(var(--heat) / ${Math.max(0, cosine(chosen[r], chosen[c])) * 0.6})`;
      }
    }
  }
  $("add").addEventListener("change", () => {
    const i = find($("add").value);
    if (i >= 0 && !chosen.includes(i)) chosen.push(i);
    $("add").value = ""; tables();
  });

  // attention
  const attention = recordings.map((one) => bytes(one.attention));
  for (const id of ["text-attention", "text-layers"]) {
    $(id).append(...recordings.map((one, i) => make("option", { value: i }, one.name)));
  }
  for (let i = 0; i < model.layers; i++) $("layer").append(make("option", { value: i }, `${i + 1}`));
  for (let i = 0; i < model.heads; i++) $("head").append(make("option", { value: i }, `${i + 1}`));
  function weight(text, layer, head, t, s) {
    const [, H, T] = recordings[text].shape;
    return attention[text][((layer * H + head) * T + t) * T + s] / 255;
  }
  function drawAttention() {
    const text = +$("text-attention").value, layer = +$("layer").value, head = +$("head").value;
    const [L, H, T] = recordings[text].shape, tokens = recordings[text].tokens;
    const rgb = theme("--heat").split(" ").map(Number);
    const overview = $("overview");
    overview.style.gridTemplateColumns = `repeat(${Math.min(H, 12)}, max-content)`;
    overview.replaceChildren();
    for (let l = 0; l < L; l++) for (let h = 0; h < H; h++) {
      const small = make("canvas", { width: T, height: T }), drawing = small.getContext("2d"), image = drawing.createImageData(T, T);
      for (let t = 0; t < T; t++) for (let s = 0; s <= t; s++) {
        image.data.set([...rgb, 255 * Math.sqrt(weight(text, l, h, t, s))], 4 * (t * T + s));
      }
      drawing.putImageData(image, 0, 0);
      overview.append(make("button", { type: "button", "aria-label": `layer ${l + 1}, head ${h + 1}`, title: `layer ${l + 1}, head ${h + 1}`,
        "aria-pressed": String(l === layer && h === head), onclick: () => { $("layer").value = l; $("head").value = h; drawAttention(); } }, small));
    }
    const heat = $("heat");
    heat.style.gridTemplateColumns = `max-content repeat(${T}, max-content)`;
    heat.replaceChildren();
    for (let t = 0; t < T; t++) {
      heat.append(make("div", { className: "row" }, tokens[t]));
      for (let s = 0; s < T; s++) {
        const cell = make("div", { className: "cell" });
        if (s <= t) {
          const value = weight(text, layer, head, t, s);
          cell.style.background = `rgb(var(--heat) / ${0.05 + 0.95 * value})`;
          cell.title = `${tokens[t]} takes ${(100 * value).toFixed(0)}% from ${tokens[s]}`;
          cell.onpointerenter = () => { $("heat-note").textContent = cell.title; };
        }
        heat.append(cell);
      }
    }
    heat.append(make("div"), ...tokens.map((token) => make("div", { className: "column" }, token)));
    $("heat-note").textContent = `Layer ${layer + 1}, head ${head + 1}. ` + summary(text, layer, head, T);
  }
  // What a head mostly does with this text, in words.
  function summary(text, layer, head, T) {
    let self = 0, previous = 0, first = 0;
    for (let t = 1; t < T; t++) {
      self += weight(text, layer, head, t, t); previous += weight(text, layer, head, t, t - 1); first += weight(text, layer, head, t, 0);
    }
    const share = (sum) => `${((100 * sum) / Math.max(1, T - 1)).toFixed(0)}%`;
    return `On average ${share(self)} stays at the position itself, ${share(previous)} goes to the one before, and ${share(first)} to the first.`;
  }
  for (const id of ["text-attention", "layer", "head"]) $(id).addEventListener("change", drawAttention);

  // logit lens
  function drawLens() {
    const one = recordings[+$("text-layers").value], T = one.tokens.length;
    const name = (l) => (l === 0 ? "look-up" : l === one.lens.length - 1 ? `layer ${l}: output` : `layer ${l}`);
    const rows = one.lens.map((layer, l) => make("tr", {}, make("th", { scope: "row" }, name(l)), ...layer.map((predictions, t) => {
      const [token, p] = predictions[0];
      const cell = make("td", { tabIndex: 0, className: t < T - 1 && token === one.tokens[t + 1] ? "right" : "" }, token,
        make("small", {}, `${(100 * p).toFixed(0)}%`));
      cell.style.setProperty("--p", p);
      const tell = () => {
        const actual = t < T - 1 ? ` What came is ${one.tokens[t + 1]}: ${(100 * one.actual[l][t]).toFixed(1)}%.` : "";
        $("lens-note").textContent = `${name(l)}, after ${one.tokens[t]}: ` +
          predictions.map(([other, q]) => `${other} ${(100 * q).toFixed(1)}%`).join(", ") + "." + actual;
      };
      cell.addEventListener("pointerenter", tell); cell.addEventListener("focus", tell);
      return cell;
    })));
    rows.reverse(); // the output on top, as in pictures of the network
    $("lens").replaceChildren(...rows, make("tr", {}, make("th", { scope: "row" }, "text"), ...one.tokens.map((token) => make("th", {}, token))));
    $("lens-note").textContent = "Point at a cell, or tab to it, for its five likeliest tokens.";
  }
  $("text-layers").addEventListener("change", drawLens);

  view = wholeView();
  $("search").value = space.tokens[selected];
  const first = data.analogies.find((one) => one.ranks.every((rank) => rank !== null));
  if (first) {
    ["a", "b", "c"].forEach((id, i) => { $(id).value = space.tokens[first.ranks[i]]; });
    arithmetic(first.ranks[3]);
  }
  legend(); details(); drawMap(); tables();
  if (recordings.length) { drawAttention(); drawLens(); }
  window.addEventListener("resize", drawMap);
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { legend(); drawMap(); drawAttention(); });
})();
