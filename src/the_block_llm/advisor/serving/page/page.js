"use strict";
// Model output is only inserted as text nodes; links are built from citations that the server checked.

const byId = (id) => document.getElementById(id);
const conversation = byId("conversation");
let messages = [];
let abortController = null;

function headers() {
  const key = byId("key").value;
  return { "content-type": "application/json", ...(key ? { authorization: `Bearer ${key}` } : {}) };
}

async function request(path, options = {}) {
  const response = await fetch(path, { ...options, headers: headers() });
  if (response.status === 401) byId("key-label").hidden = false;
  if (!response.ok) {
    const body = await response.json().catch(() => null);
    throw new Error(body?.error?.message ?? `The server responded with status ${response.status}.`);
  }
  return response;
}

function appendElement(parent, tag, className, text = "") {
  const element = document.createElement(tag);
  element.className = className;
  element.textContent = text;
  parent.append(element);
  return element;
}

function appendLink(parent, text, open) {
  const element = appendElement(parent, "a", "citation", text);
  element.href = "#source";
  element.addEventListener("click", (event) => {
    event.preventDefault();
    open().catch((error) => showSource({ title: error.message, first_line: null, lines: [] }));
  });
}

function showSource(source, line = null) {
  byId("source-title").textContent = source.title;
  const sourceText = byId("source-text");
  sourceText.replaceChildren();
  let highlighted = null;
  source.lines.forEach((text, index) => {
    const number = source.first_line === null ? null : source.first_line + index;
    const isHighlighted = number !== null && number === line;
    const className = number === null ? "no-number" : isHighlighted ? "highlighted" : "";
    const row = appendElement(sourceText, "span", className);
    if (number !== null) appendElement(row, "span", "line-number", String(number));
    appendElement(row, "span", "", text);
    if (isHighlighted) highlighted = row;
  });
  byId("source").hidden = false;
  (highlighted ?? sourceText).scrollIntoView({ block: highlighted ? "center" : "nearest" });
  sourceText.focus({ preventScroll: true });
}

async function openFile(path, line) {
  const query = new URLSearchParams({ path, line: line ?? 1 });
  showSource(await (await request(`/v1/sources/file?${query}`)).json(), line);
}

async function openCommit(sha) {
  const query = new URLSearchParams({ sha });
  showSource(await (await request(`/v1/sources/commit?${query}`)).json());
}

function appendPart(article, text, citation) {
  if (!citation) article.append(text);
  else if (!citation.exists) appendElement(article, "span", "not-found", text);
  else if (!citation.target) appendElement(article, "span", "", text);
  else if (citation.kind === "commit") appendLink(article, text, () => openCommit(citation.target));
  else appendLink(article, text, () => openFile(citation.target, citation.line));
}

function appendPassages(article, passages) {
  if (!passages.length) return;
  const note = appendElement(article, "p", "note", "Passages: ");
  passages.forEach((passage) => {
    const open = passage.first_line === null
      ? () => openCommit(passage.source)
      : () => openFile(passage.source, passage.first_line);
    appendLink(note, passage.heading, open);
  });
}

async function* readEvents(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    buffer += value;
    const blocks = buffer.split("\n\n");
    buffer = blocks.pop();
    for (const block of blocks) {
      const data = block.replace(/^data: /, "");
      if (data === "[DONE]") return;
      yield JSON.parse(data);
    }
  }
}

async function streamAnswer(article, waiting) {
  const response = await request("/v1/chat/completions", {
    method: "POST",
    signal: abortController.signal,
    body: JSON.stringify({
      model: byId("model").value || undefined,
      messages,
      retrieval: byId("retrieval").checked,
      stream: true,
    }),
  });
  let text = "";
  for await (const event of readEvents(response.body)) {
    if (event.error) throw new Error(event.error.message);
    const choice = event.choices[0];
    const content = choice?.delta?.content ?? "";
    if (content) {
      waiting.remove();
      appendPart(article, content, event.citation);
    }
    text += content;
    if (choice?.finish_reason === "length") appendElement(article, "p", "note", "Truncated: the answer reached the token limit.");
    if (event.passages) appendPassages(article, event.passages);
  }
  return text;
}

async function ask(question) {
  messages.push({ role: "user", content: question });
  byId("welcome").hidden = true;
  appendElement(conversation, "article", "user", question);
  const article = appendElement(conversation, "article", "assistant");
  const waiting = appendElement(article, "span", "note waiting", byId("retrieval").checked ? "Searching and answering" : "Answering");
  article.scrollIntoView({ block: "nearest" });
  abortController = new AbortController();
  byId("send").hidden = true;
  byId("stop").hidden = false;
  try {
    messages.push({ role: "assistant", content: await streamAnswer(article, waiting) });
  } catch (error) {
    messages.pop();
    const isStopped = error.name === "AbortError";
    appendElement(article, "p", isStopped ? "note" : "note error", isStopped ? "Stopped." : error.message);
  } finally {
    waiting.remove();
    abortController = null;
    byId("send").hidden = false;
    byId("stop").hidden = true;
  }
}

async function listModels() {
  const list = await (await request("/v1/models")).json();
  const advisors = list.data.filter((model) => model.role === "advisor" && model.id.includes("@"));
  byId("model").replaceChildren(...advisors.map((model) => new Option(model.id.replace("@", " · "), model.id)));
}

byId("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  const question = byId("question").value.trim();
  if (!question || abortController) return;
  byId("question").value = "";
  ask(question);
});
byId("question").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    byId("ask").requestSubmit();
  }
});
byId("stop").addEventListener("click", () => abortController?.abort());
byId("close").addEventListener("click", () => { byId("source").hidden = true; });
byId("new-conversation").addEventListener("click", () => {
  abortController?.abort();
  messages = [];
  conversation.replaceChildren(byId("welcome"));
  byId("welcome").hidden = false;
  byId("source").hidden = true;
  byId("question").focus();
});
document.querySelectorAll("#welcome .examples button").forEach((example) => {
  example.addEventListener("click", () => { if (!abortController) ask(example.textContent); });
});
byId("key").addEventListener("change", () => listModels().catch(() => {}));
listModels().catch((error) => appendElement(conversation, "p", "error", error.message));
