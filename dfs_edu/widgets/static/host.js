// Starts the widgets of a page without a kernel: each element with data-dfs-widgets holds their states as JSON.

// A short number for a text: a page that was made again starts afresh.
function digest(text) {
  let sum = 7;
  for (let i = 0; i < text.length; i++) sum = (31 * sum + text.charCodeAt(i)) | 0;
  return sum.toString(36);
}

// The browser keeps a text until the tab is closed, so that it outlives a reload; not where it keeps nothing for files.
function storage(key) {
  const attempt = (act) => {
    try {
      return act();
    } catch {
      return null;
    }
  };
  return {
    read: () => attempt(() => JSON.parse(sessionStorage.getItem(key))) ?? {},
    write: (values) => attempt(() => sessionStorage.setItem(key, JSON.stringify(values))),
  };
}

// What a widget reads and writes, as in a notebook.
function modelOf(state, { read, write }) {
  const moved = read(); // what the reader has set
  const values = { ...state, ...moved };
  const listeners = new Map();
  const each = (names, act) => names.split(" ").forEach(act);
  return {
    get: (name) => values[name],
    set(name, value) {
      values[name] = moved[name] = value;
      for (const listener of listeners.get("change:" + name) ?? []) listener();
    },
    on: (names, listener) => each(names, (name) => listeners.set(name, [...(listeners.get(name) ?? []), listener])),
    off: (names, listener) => each(names, (name) => listeners.set(name, (listeners.get(name) ?? []).filter((other) => other !== listener))),
    save_changes: () => write(moved),
  };
}

const bytesOf = (text) => Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
const revived = (value) => (typeof value?.base64 === "string" ? bytesOf(value.base64) : value);

async function started({ widget, state }, key) {
  const values = Object.fromEntries(Object.entries(state).map(([name, value]) => [name, revived(value)]));
  const el = document.createElement("div");
  el.style.flex = "1 1 340px";
  el.style.minWidth = "0";
  await dfsWidgets[widget].render({ model: modelOf(values, storage(key)), el });
  return el;
}

async function start(place, number) {
  const text = place.querySelector("script").textContent;
  const states = JSON.parse(text);
  const key = (i) => `dfs ${location.pathname} ${number} ${i} ${digest(text)}`;
  try {
    place.replaceChildren(...(await Promise.all(states.map((state, i) => started(state, key(i))))));
    Object.assign(place.style, { display: "flex", flexFlow: "row wrap", gap: "24px" });
  } catch (error) {
    console.error("a widget did not start", error); // what stands here stays
  }
}

document.querySelectorAll("[data-dfs-widgets]").forEach(start);
