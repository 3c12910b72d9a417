"use strict";

const byId = (id) => document.getElementById(id);
const post = (url, body) => fetch(url, { method: "POST", body, headers: { "X-Requested-With": "panda-anomalib" } });

function tell(doing, done, total) {
  byId("problem").hidden = true;
  byId("state").hidden = false;
  byId("doing").textContent = doing;
  byId("progress").value = total ? done / total : 0;
}

function complain(text) {
  byId("state").hidden = true;
  byId("problem").hidden = false;
  byId("problem").textContent = text;
}

async function sendFiles(files) {
  let number = null;
  for (const [index, file] of files.entries()) {
    tell(files.length > 1 ? `${index + 1} of ${files.length}: ${file.name}` : file.name, index, files.length);
    const answer = await post(`/upload?name=${encodeURIComponent(file.name)}`, file);
    if (answer.ok) number = (await answer.json()).number;
  }
  if (files.length) location.assign(files.length === 1 && number !== null ? `/image/${number}` : "/");
}

async function sortFolder(path) {
  tell("Looking for images", 0, 1);
  const answer = await post("/folder", path);
  if (!answer.ok) return complain((await answer.json()).problem);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let rest = ""; ;) {
    const { value, done } = await reader.read();
    if (done) break;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    if (lines.length) {
      const state = JSON.parse(lines.at(-1));
      tell(`${state.done} of ${state.total} images`, state.done, state.total);
    }
  }
  location.assign("/");
}

async function filesOf(entry) {
  if (entry.isFile) return [await new Promise((resolve, reject) => entry.file(resolve, reject))];
  const reader = entry.createReader(), files = [];
  for (;;) { // it gives a hundred at a time
    const entries = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!entries.length) return files;
    for (const inner of entries) files.push(...await filesOf(inner));
  }
}

const guarded = (action) => (event) => action(event).catch((error) => complain(`The server does not answer (${error.message}).`));
const visible = (files) => [...files].filter((file) => !file.name.startsWith("."));

for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault(); // else the browser leaves the page and shows the file itself
    document.body.classList.toggle("over", kind === "dragenter" || kind === "dragover");
  });
}
document.addEventListener("drop", guarded(async (event) => {
  const items = [...event.dataTransfer.items].filter((item) => item.kind === "file");
  const entries = items.map((item) => item.webkitGetAsEntry()); // before the first pause: the items do not last
  const files = [];
  for (const entry of entries) files.push(...await filesOf(entry));
  await sendFiles(visible(files));
}));
for (const id of ["files", "directory"]) {
  byId(id)?.addEventListener("change", guarded((event) => sendFiles(visible(event.target.files))));
}
byId("folder")?.addEventListener("submit", guarded((event) => {
  event.preventDefault();
  return sortFolder(byId("path").value);
}));
byId("clear")?.addEventListener("click", guarded(async () => {
  await post("/clear");
  location.assign("/");
}));

document.addEventListener("keydown", (event) => {
  if (event.target.tagName === "INPUT" || event.ctrlKey || event.altKey || event.metaKey) return;
  const direction = { ArrowLeft: "prev", ArrowRight: "next" }[event.key];
  if (direction) document.querySelector(`a[rel=${direction}]`)?.click();
});
