"use strict";
// What a model writes is only ever put into text nodes; links are made from what the server checked.

const byId = (id) => document.getElementById(id);
const conversation = byId("conversation");
let messages = [];
let running = null;

function headers() {
  const key = byId("key").value;
  return { "content-type": "application/json", ...(key ? { authorization: `Bearer ${key}` } : {}) };
}

async function request(path, options = {}) {
  const reply = await fetch(path, { ...options, headers: headers() });
  if (reply.status === 401) byId("key-label").hidden = false;
  if (!reply.ok) {
    const body = await reply.json().catch(() => null);
    throw new Error(body?.error?.message ?? `The server answered ${reply.status}.`);
  }
  return reply;
}

function add(parent, tag, className, text = "") {
  const made = document.createElement(tag);
  made.className = className;
  made.textContent = text;
  parent.append(made);
  return made;
}

function link(parent, text, open) {
  const made = add(parent, "a", "cited", text);
  made.href = "#source";
  made.addEventListener("click", (event) => {
    event.preventDefault();
    open().catch((error) => showSource({ title: error.message, first_line: null, lines: [] }));
  });
}

function showSource(source, line = null) {
  byId("source-title").textContent = source.title;
  const shown = byId("source-text");
  shown.replaceChildren();
  let here = null;
  source.lines.forEach((text, at) => {
    const number = source.first_line === null ? null : source.first_line + at;
    const row = add(shown, "span", number === null ? "plain" : number === line ? "here" : "");
    if (number !== null) add(row, "span", "number", String(number));
    add(row, "span", "", text);
    if (row.className === "here") here = row;
  });
  byId("source").hidden = false;
  (here ?? shown).scrollIntoView({ block: here ? "center" : "nearest" });
  shown.focus({ preventScroll: true });
}

async function openFile(path, line) {
  const query = new URLSearchParams({ path, line: line ?? 1 });
  showSource(await (await request(`/v1/sources/file?${query}`)).json(), line);
}

async function openCommit(sha) {
  const query = new URLSearchParams({ sha });
  showSource(await (await request(`/v1/sources/commit?${query}`)).json());
}

function writePart(article, text, citation) {
  if (!citation) article.append(text);
  else if (!citation.exists) add(article, "span", "missing", text);
  else if (!citation.target) add(article, "span", "", text);
  else if (citation.kind === "commit") link(article, text, () => openCommit(citation.target));
  else link(article, text, () => openFile(citation.target, citation.line));
}

function writePassages(article, passages) {
  if (!passages.length) return;
  const note = add(article, "p", "note", "Read: ");
  passages.forEach((passage) => {
    const open = passage.first_line === null
      ? () => openCommit(passage.source)
      : () => openFile(passage.source, passage.first_line);
    link(note, passage.heading, open);
  });
}

async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    held += value;
    const blocks = held.split("\n\n");
    held = blocks.pop();
    for (const block of blocks) {
      const data = block.replace(/^data: /, "");
      if (data === "[DONE]") return;
      yield JSON.parse(data);
    }
  }
}

async function answer(article, waiting) {
  const reply = await request("/v1/chat/completions", {
    method: "POST",
    signal: running.signal,
    body: JSON.stringify({
      model: byId("model").value || undefined,
      messages,
      retrieval: byId("retrieval").checked,
      stream: true,
    }),
  });
  let text = "";
  for await (const event of events(reply.body)) {
    if (event.error) throw new Error(event.error.message);
    const choice = event.choices[0];
    const piece = choice?.delta?.content ?? "";
    if (piece) {
      waiting.remove();
      writePart(article, piece, event.citation);
    }
    text += piece;
    if (choice?.finish_reason === "length") add(article, "p", "note", "Cut off: the answer grew too long.");
    if (event.passages) writePassages(article, event.passages);
  }
  return text;
}

async function ask(question) {
  messages.push({ role: "user", content: question });
  byId("welcome").hidden = true;
  add(conversation, "article", "user", question);
  const article = add(conversation, "article", "assistant");
  const waiting = add(article, "span", "note waiting", byId("retrieval").checked ? "Searching and reading" : "Reading");
  article.scrollIntoView({ block: "nearest" });
  running = new AbortController();
  byId("send").hidden = true;
  byId("stop").hidden = false;
  try {
    messages.push({ role: "assistant", content: await answer(article, waiting) });
  } catch (error) {
    messages.pop();
    const stopped = error.name === "AbortError";
    add(article, "p", stopped ? "note" : "note error", stopped ? "Stopped." : error.message);
  } finally {
    waiting.remove();
    running = null;
    byId("send").hidden = false;
    byId("stop").hidden = true;
  }
}

async function listModels() {
  const list = await (await request("/v1/models")).json();
  const advisors = list.data.filter((model) => model.role === "advisor");
  byId("model").replaceChildren(...advisors.map((model) => new Option(model.id.replace("@", " · "), model.id)));
}

byId("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  const question = byId("question").value.trim();
  if (!question || running) return;
  byId("question").value = "";
  ask(question);
});
byId("question").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    byId("ask").requestSubmit();
  }
});
byId("stop").addEventListener("click", () => running?.abort());
byId("close").addEventListener("click", () => { byId("source").hidden = true; });
byId("forget").addEventListener("click", () => {
  running?.abort();
  messages = [];
  conversation.replaceChildren(byId("welcome"));
  byId("welcome").hidden = false;
  byId("source").hidden = true;
  byId("question").focus();
});
document.querySelectorAll("#welcome .examples button").forEach((example) => {
  example.addEventListener("click", () => { if (!running) ask(example.textContent); });
});
byId("key").addEventListener("change", () => listModels().catch(() => {}));
listModels().catch((error) => add(conversation, "p", "error", error.message));
