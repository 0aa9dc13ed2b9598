// What this browser remembers: settings and history. Where it may not store anything, the page forgets.

const MOST_ENTRIES = 50;

function read(name, otherwise) {
  try {
    return JSON.parse(localStorage.getItem(name)) ?? otherwise;
  } catch {
    return otherwise;
  }
}

function write(name, value) {
  try {
    localStorage.setItem(name, JSON.stringify(value));
  } catch {
    // Full, or switched off.
  }
}

export const DEFAULTS = { temperature: 0.8, top_p: 0.95, top_k: 0, max_tokens: 128, seed: "", stop: "" };

export function readSettings() {
  return { ...DEFAULTS, ...read("settings", {}) };
}

export function writeSettings(settings) {
  write("settings", settings);
}

/** Entries {time, prompt, text}, the newest first. */
export function readHistory() {
  return read("history", []);
}

export function addToHistory(entry) {
  write("history", [entry, ...readHistory()].slice(0, MOST_ENTRIES));
}

export function clearHistory() {
  localStorage.removeItem("history");
}
