// Starts the widgets of a page without a kernel: each element with data-dfs-widgets holds their states as JSON.

// What a widget reads and writes, as in a notebook; nobody else listens.
function modelOf(state) {
  const values = { ...state };
  const listeners = new Map();
  const each = (names, act) => names.split(" ").forEach(act);
  return {
    get: (name) => values[name],
    set(name, value) {
      values[name] = value;
      for (const listener of listeners.get("change:" + name) ?? []) listener();
    },
    on: (names, listener) => each(names, (name) => listeners.set(name, [...(listeners.get(name) ?? []), listener])),
    off: (names, listener) => each(names, (name) => listeners.set(name, (listeners.get(name) ?? []).filter((other) => other !== listener))),
    save_changes() {},
  };
}

const bytesOf = (text) => Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
const revived = (value) => (typeof value?.base64 === "string" ? bytesOf(value.base64) : value);

async function started({ widget, state }) {
  const values = Object.fromEntries(Object.entries(state).map(([name, value]) => [name, revived(value)]));
  const el = document.createElement("div");
  el.style.flex = "1 1 340px";
  el.style.minWidth = "0";
  await dfsWidgets[widget].render({ model: modelOf(values), el });
  return el;
}

async function start(place) {
  const states = JSON.parse(place.querySelector("script").textContent);
  try {
    place.replaceChildren(...(await Promise.all(states.map(started))));
    Object.assign(place.style, { display: "flex", flexFlow: "row wrap", gap: "24px" });
  } catch (error) {
    console.error("a widget did not start", error); // what stands here stays
  }
}

document.querySelectorAll("[data-dfs-widgets]").forEach(start);
