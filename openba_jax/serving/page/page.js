// Two demos over the interface of the server: a chat, and code, where each message stands alone.
// With a second model, every message goes to both, and the answers stand side by side.
"use strict";

const DEMOS = {
  chat: { tokens: 512, about: "A model reads the whole dialogue." },
  code: { tokens: 1024, about: "A model reads the message alone; special tokens are shown." },
};
const ALONE = "A model reads the message alone: it has no form of dialogue.";
const NOBODY = "(nobody)";
const el = (id) => document.getElementById(id);

let demo = "chat";
let served = {};
let columns = [];
let stopping = null;

function headers() {
  const token = el("token").value.trim();
  const found = { "Content-Type": "application/json" };
  if (token) found.Authorization = `Bearer ${token}`;
  return found;
}

async function failure(response) {
  try {
    return (await response.json()).error.message;
  } catch {
    return `the server answers ${response.status}`;
  }
}

async function listModels() {
  const response = await fetch("v1/models", { headers: headers() });
  if (!response.ok) throw new Error(await failure(response));
  const models = (await response.json()).data;
  served = Object.fromEntries(models.map((model) => [model.id, model]));
  const names = models.map((model) => model.id);
  fill(el("left"), names, names[0]);
  fill(el("right"), [NOBODY, ...names], names[1] ?? NOBODY);
  el("note").textContent = "";
  begin();
}

function fill(select, names, chosen) {
  select.replaceChildren(...names.map((name) => new Option(name, name, false, name === chosen)));
}

function begin() {
  const names = [el("left").value, el("right").value].filter((name) => name && name !== NOBODY);
  columns = names.map((name) => ({ name, messages: [], ...column(name) }));
  el("columns").replaceChildren(...columns.map((each) => each.box));
  el("columns").className = demo;
  const alone = demo === "chat" && names.every((name) => served[name].dialogue === "message");
  el("about").textContent = alone ? ALONE : DEMOS[demo].about;
  const most = Math.min(...names.map((name) => served[name].max_new_tokens));
  el("max_tokens").max = most;
  el("max_tokens").value = Math.min(most, DEMOS[demo].tokens);
}

function column(name) {
  const box = make("article", "column");
  const dialogue = make("div", "dialogue");
  const counts = make("div", "counts");
  dialogue.setAttribute("role", "log");
  dialogue.setAttribute("aria-label", `Dialogue with ${name}`);
  box.append(make("h2", "", name), dialogue, counts);
  return { box, dialogue, counts };
}

function make(tag, name, text = "") {
  const made = document.createElement(tag);
  made.className = name;
  made.textContent = text;
  return made;
}

function turn(column, kind, text) {
  const made = make("p", `turn ${kind}`, text);
  column.dialogue.append(made);
  column.dialogue.scrollTop = column.dialogue.scrollHeight;
  return made;
}

// Pieces of an answer, then the counts of tokens.
async function* pieces(path, body, signal) {
  const options = { method: "POST", headers: headers(), body: JSON.stringify(body), signal };
  const response = await fetch(path, options);
  if (!response.ok) throw new Error(await failure(response));
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let left = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) throw new Error("the connection ended in the middle of the answer");
    const events = (left + value).split("\n\n");
    left = events.pop();
    for (const event of events) {
      const data = event.replace(/^data: /, "");
      if (data === "[DONE]") return;
      const found = JSON.parse(data);
      if (found.error) throw new Error(found.error.message);
      yield found;
    }
  }
}

async function answer(column, text, settings, signal) {
  column.messages.push({ role: "user", content: text });
  turn(column, "user", text);
  const shown = turn(column, "assistant", "");
  const common = { model: column.name, stream: true, stream_options: { include_usage: true } };
  const isChat = demo === "chat";
  const asked = isChat
    ? { messages: column.messages }
    : { prompt: text, skip_special_tokens: false };
  const path = isChat ? "v1/chat/completions" : "v1/completions";
  const begun = performance.now();
  let said = "";
  try {
    for await (const found of pieces(path, { ...common, ...settings, ...asked }, signal)) {
      const choice = found.choices[0];
      if (choice) said += (isChat ? choice.delta.content : choice.text) ?? "";
      shown.textContent = said.trimStart();
      column.dialogue.scrollTop = column.dialogue.scrollHeight;
      if (found.usage) {
        const seconds = (performance.now() - begun) / 1000;
        const { prompt_tokens: read, completion_tokens: written } = found.usage;
        column.counts.textContent =
          `${read} tokens read, ${written} written in ${seconds.toFixed(1)} s`;
      }
    }
  } catch (error) {
    if (error.name !== "AbortError") {
      // A message without an answer is no part of the dialogue.
      column.messages.pop();
      if (!said) shown.remove();
      turn(column, "error", error.message);
      return;
    }
    column.counts.textContent = "stopped";
  }
  if (!isChat) shown.textContent = `${said}\n`;
  column.messages.push({ role: "assistant", content: said.trim() });
}

async function send(event) {
  event.preventDefault();
  const text = el("message").value.trim();
  if (!text || stopping || !columns.length) return;
  const settings = {
    top_p: Number(el("top_p").value),
    temperature: Number(el("temperature").value),
    max_tokens: Number(el("max_tokens").value),
  };
  if (el("seed").value !== "") settings.seed = Number(el("seed").value);
  el("message").value = "";
  stopping = new AbortController();
  busy(true);
  await Promise.all(columns.map((each) => answer(each, text, settings, stopping.signal)));
  stopping = null;
  busy(false);
  el("message").focus();
}

function busy(is) {
  el("stop").disabled = !is;
  for (const id of ["send", "reset", "left", "right", "tab-chat", "tab-code"]) el(id).disabled = is;
}

function choose(name) {
  demo = name;
  for (const each of Object.keys(DEMOS)) {
    el(`tab-${each}`).setAttribute("aria-selected", String(each === name));
  }
  el("talk").setAttribute("aria-labelledby", `tab-${name}`);
  begin();
}

function connect() {
  listModels().catch((error) => {
    el("note").textContent = error.message;
  });
}

for (const id of ["top_p", "temperature"]) {
  const show = () => {
    el(`${id}-value`).textContent = Number(el(id).value).toFixed(2);
  };
  el(id).addEventListener("input", show);
  show();
}
for (const id of ["left", "right"]) el(id).addEventListener("change", begin);
for (const name of Object.keys(DEMOS)) {
  el(`tab-${name}`).addEventListener("click", () => choose(name));
}
el("form").addEventListener("submit", send);
el("message").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) send(event);
});
el("stop").addEventListener("click", () => stopping?.abort());
el("reset").addEventListener("click", begin);
el("token").addEventListener("change", connect);
connect();
