// What the user has set. The API key lives as long as the tab, all else until it is changed.

const field = (id) => document.getElementById(id);
const KEPT = ["system", "temperature", "top-p", "max-tokens", "highlight", "compare"];
const KEY = "racer.api-key";

const isSwitch = (input) => input.type === "checkbox";

/** Show what was set the last time, and keep what is changed. */
export function prepare(changed) {
  for (const id of KEPT) {
    const kept = stored(localStorage, `racer.${id}`);
    const input = field(id);
    if (kept !== null) isSwitch(input) ? (input.checked = kept === "true") : (input.value = kept);
    input.addEventListener("change", () => {
      store(localStorage, `racer.${id}`, isSwitch(input) ? input.checked : input.value);
      changed(id);
    });
  }
  field("api-key").value = stored(sessionStorage, KEY) ?? "";
  field("api-key").addEventListener("change", () => {
    store(sessionStorage, KEY, field("api-key").value.trim());
    changed("api-key");
  });
}

export const key = () => field("api-key").value.trim();
export const highlights = () => field("highlight").checked;
export const compares = () => field("compare").checked;
export const system = () => field("system").value.trim();

/** Whether all values are in range; the browser tells which is not. */
export function valid() {
  const form = field("settings-form");
  if (form.checkValidity()) return true;
  reveal();
  form.reportValidity();
  return false;
}

/** Open the settings, and go to one of them. */
export function reveal(id) {
  field("settings").open = true;
  if (id) field(id).focus();
}

/** The fields of a request that shape its answer. A seed makes two sampled answers comparable. */
export function sampling() {
  const temperature = field("temperature").valueAsNumber;
  const settings = { max_tokens: field("max-tokens").valueAsNumber, temperature };
  if (temperature > 0) {
    settings.top_p = field("top-p").valueAsNumber;
    settings.seed = Math.floor(Math.random() * 2 ** 31);
  }
  return settings;
}

function stored(place, name) {
  try {
    return place.getItem(name);
  } catch {
    return null; // storage is switched off
  }
}

function store(place, name, value) {
  try {
    place.setItem(name, String(value));
  } catch {
    // it is forgotten, then
  }
}
