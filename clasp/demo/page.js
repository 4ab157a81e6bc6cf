"use strict";
const at = (id) => document.getElementById(id);
let choices, image = null;

/** An element with properties and children; text is never read as markup. */
function make(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function say(text, wrong = false) {
  at("status").textContent = text;
  at("status").className = wrong ? "wrong" : "";
}

/** Shows what will be sent; whether it is an image at all, the server says. */
function choose(blob, name) {
  image = blob;
  URL.revokeObjectURL(at("chosen").src);
  at("chosen").src = URL.createObjectURL(blob);
  at("chosen").alt = name;
  at("chosen").hidden = false;
  at("invite").textContent = name;
  say(blob.size > choices.most.bytes ? `The image has more than ${choices.most.bytes >> 20} MiB.` : "", true);
}

async function example(number) {
  const one = choices.examples[number];
  choose(await (await fetch(`examples/${number}.png`)).blob(), `Example; the answer is “${one.answer}”`);
  at("file").value = "";
  at("question").value = one.question;
}

function chosenMethods() {
  return [...document.querySelectorAll("#methods input:checked")].map((box) => box.value);
}

function limitMethods() {
  const full = chosenMethods().length >= choices.most.methods;
  for (const box of document.querySelectorAll("#methods input")) box.disabled = full && !box.checked;
}

function stage(one) {
  return make("figure", {}, make("img", { src: one.map, alt: one.text }), make("figcaption", {}, one.text));
}

function column(one) {
  const made = make("article", {}, make("h2", {}, one.method));
  if (one.refused) {
    made.append(make("p", { className: "refused" }, one.refused));
    return made;
  }
  made.append(make("p", { className: "answer" }, one.answer || "(no words)"));
  const sure = one.confidence === null ? "" : `, confidence ${one.confidence.toFixed(2)}`;
  const category = one.category === null ? "not routed" : one.category + sure;
  const rows = [["Category", category], ...one.costs].map(([name, value]) =>
    make("tr", {}, make("th", { scope: "row" }, name), make("td", {}, value)));
  made.append(make("table", {}, make("tbody", {}, ...rows)), ...one.stages.map(stage));
  return made;
}

async function ask(event) {
  event.preventDefault();
  if (!image) return say("There is no image; drop one or take an example.", true);
  const query = new URLSearchParams({ question: at("question").value, tokens: at("tokens").value });
  query.set("backbone", at("backbone").value);
  for (const name of chosenMethods()) query.append("method", name);
  at("ask").disabled = true;
  say("Answering; visitors before you are answered first …");
  try {
    const response = await fetch(`answer?${query}`, { method: "POST", body: image });
    const json = response.headers.get("Content-Type") === "application/json";
    if (!json) throw new Error("Something went wrong; the terminal of the server says what.");
    const content = await response.json();
    if (!response.ok) throw new Error(content.sentence);
    at("columns").replaceChildren(...content.columns.map(column));
    at("results").hidden = false;
    say("Answered; see below.");
  } catch (error) {
    say(error instanceof TypeError ? "The server does not answer; is it still running?" : error.message, true);
  } finally {
    at("ask").disabled = false;
  }
}

async function start() {
  choices = await (await fetch("choices")).json();
  at("file").accept = choices.formats.join();
  at("question").maxLength = choices.most.question;
  at("tokens").value = choices.tokens;
  at("backbone").append(...choices.backbones.map((name) => make("option", { value: name }, name)));
  at("methods").append(...Object.entries(choices.methods).map(([value, label]) => make("label", {},
    make("input", { type: "checkbox", value, checked: choices.chosen.includes(value), onchange: limitMethods }),
    ` ${label}`)));
  at("methods").firstElementChild.textContent = `Methods, one to ${choices.most.methods}`;
  at("examples").append(...choices.examples.map((one, number) => make("button",
    { type: "button", title: one.question, onclick: () => example(number) },
    make("img", { src: `examples/${number}.png`, alt: `Example: ${one.question}` }))));
  at("file").onchange = () => { if (at("file").files.length) choose(at("file").files[0], at("file").files[0].name); };
  for (const kind of ["dragover", "drop"]) document.addEventListener(kind, (event) => event.preventDefault());
  at("drop").ondragover = () => at("drop").classList.add("over");
  at("drop").ondragleave = () => at("drop").classList.remove("over");
  at("drop").ondrop = (event) => {
    at("drop").classList.remove("over");
    const file = event.dataTransfer.files[0];
    if (file) choose(file, file.name);
  };
  at("form").onsubmit = ask;
  document.documentElement.dataset.ready = "yes";
}

start();
