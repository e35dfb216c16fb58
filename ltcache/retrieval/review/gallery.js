const store = "ltcache-decisions:" + page.key;
const VERDICT = { accept: "accepted", reject: "rejected" };

const state = { shown: -1, data: null, cards: [], headings: [], at: -1, undo: [], decisions: new Map() };

function say(text) { place("message").textContent = text; }

function probability(p) {
  if (p >= 0.9995) return "> 0.999";
  return p < 0.0005 ? "< 0.001" : p.toFixed(3);
}

const counted = (n) => n + (n === 1 ? " decision" : " decisions");

// --- decisions ----------------------------------------------------------------------------------

const id = (label, key) => label + "\t" + key;
const parts = (name) => [Number(name.slice(0, name.indexOf("\t"))), name.slice(name.indexOf("\t") + 1)];

function load() {
  let text = null;
  try { text = localStorage.getItem(store); } catch (error) { say("This browser keeps nothing: export your decisions."); }
  let found = null;
  try { found = text && JSON.parse(text); } catch (error) { say("The stored decisions were damaged and are left out."); }
  state.decisions = new Map(Array.isArray(found) ? found : page.decisions);
}

function keep() {
  try {
    localStorage.setItem(store, JSON.stringify([...state.decisions]));
  } catch (error) {
    say("This browser did not store that: export your decisions before you close the page.");
  }
}

// changes: [[id, decision or null]]; one step for undo
function change(changes, label, key) {
  const before = changes.map(([name]) => [name, state.decisions.get(name) || null]);
  state.undo.push({ before, label, key });
  put(changes);
}

function put(changes) {
  for (const [name, decision] of changes) {
    if (decision) state.decisions.set(name, decision);
    else state.decisions.delete(name);
  }
  keep();
  refresh();
}

// an image has one class: where a person gave it to another one, it is rejected there
function decided(item, label, decision) {
  const others = [...state.decisions].filter(([other, found]) => {
    const [otherLabel, key] = parts(other);
    return decision === "accept" && found === "accept" && key === item.key && otherLabel !== label;
  });
  return [[id(label, item.key), decision], ...others.map(([other]) => [other, "reject"])];
}

function acceptVisible() {
  const label = state.data.label, items = state.cards.map((card) => card.item);
  const open = items.filter((item) => !item.locked && state.decisions.get(id(label, item.key)) !== "accept");
  if (open.length) change(open.flatMap((item) => decided(item, label, "accept")), label, open[0].key);
  const locked = items.filter((item) => item.locked).length;
  say(open.length + " of " + items.length + " visible images accepted" + (locked ? "; " + locked + " cannot be" : "") + ".");
}

function decide(decision, goOn) {
  const item = state.cards[state.at] && state.cards[state.at].item;
  if (!item) return say("No image is in focus.");
  if (item.locked && decision === "accept") return say(item.key + " cannot be accepted: " + page.reasons[item.reason] + ".");
  const label = state.data.label, name = id(label, item.key);
  const same = state.decisions.get(name) === decision && !goOn;
  const changes = same ? [[name, null]] : decided(item, label, decision);
  let told = same ? "Decision taken back: " : VERDICT[decision] + ": ";
  if (changes.length > 1) told = "accepted here and rejected for class " + changes.slice(1).map(([other]) => parts(other)[0]).join(", ") + ": ";
  change(changes, label, item.key);
  say(told + item.key);
  if (goOn) move(state.at + 1);
}

function undo() {
  const step = state.undo.pop();
  if (!step) return say("Nothing to undo.");
  const number = page.classes.findIndex((entry) => entry.label === step.label);
  if (number >= 0 && number !== state.shown) show(number);
  put(step.before);
  const index = state.cards.findIndex((card) => card.item.key === step.key);
  if (index >= 0) focus(index);
  say("Undone.");
}

function verdict(item, label) {
  const found = state.decisions.get(id(label, item.key));
  return { hand: found || null, is: found ? VERDICT[found] : item.status };
}

// what the guards said of the images of a class, which need not be the one that is shown
const statuses = new Map();
function guards(label) {
  if (!statuses.has(label)) {
    const block = place("class-" + label);
    const items = block ? JSON.parse(block.textContent).items : [];
    statuses.set(label, new Map(items.map((item) => [item.key, item])));
  }
  return statuses.get(label);
}

// label -> images that each class has with the decisions in force, as ltcache review counts them
function taken() {
  const found = new Map(page.classes.map((entry) => [entry.label, entry.accepted]));
  const labels = new Map(page.classes.map((entry) => [entry.name, entry.label]));
  const add = (label, n) => found.set(label, found.get(label) + n);
  for (const [name, decision] of state.decisions) {
    const [label, key] = parts(name), item = guards(label).get(key);
    if (!item) continue;
    const before = item.status === "accepted";
    if ((decision === "accept") !== before) add(label, before ? -1 : 1);
    const owner = labels.get(item.taken_for);
    if (decision === "accept" && owner !== undefined && !state.decisions.has(id(owner, key))) add(owner, -1);
  }
  return found;
}

// --- files --------------------------------------------------------------------------------------

function exported() {
  const decisions = [...state.decisions].map(([name, decision]) => {
    const [label, key] = parts(name);
    return { label, key, decision };
  });
  return { format: 1, retrieval: page.retrieval, decisions };
}

function save() {
  const text = JSON.stringify(exported(), null, 1) + "\n";
  const address = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  const link = make("a", { href: address, download: "decisions-" + page.key.slice(0, 8) + ".json" });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(address), 10000);
  say(counted(state.decisions.size) + " exported.");
}

const plain = (value) => Array.isArray(value) ? value.map(plain)
  : value && typeof value === "object" ? Object.keys(value).sort().map((k) => [k, plain(value[k])])
  : value;

async function read(file) {
  let found;
  try {
    found = JSON.parse(await file.text());
    if (found.format !== 1 || !Array.isArray(found.decisions)) throw new Error("no decisions");
  } catch (error) {
    return say(file.name + " holds no decisions.");
  }
  if (JSON.stringify(plain(found.retrieval)) !== JSON.stringify(plain(page.retrieval))) {
    return say(file.name + " belongs to another retrieval; nothing was imported.");
  }
  const good = found.decisions.filter((entry) => entry.decision in VERDICT);
  change(good.map((entry) => [id(entry.label, entry.key), entry.decision]), state.data.label, "");
  say(counted(good.length) + " imported.");
}

// --- one class ----------------------------------------------------------------------------------

function badge(item, label) {
  const now = verdict(item, label);
  if (now.hand) return now.is + " by hand";
  return item.status === "accepted" ? "taken" : page.reasons[item.reason] || item.reason;
}

function card(item, label, number) {
  const hover = "rank " + item.rank + ", log-odds " + item.log_odds.toFixed(3) + ", margin " + item.margin.toFixed(3);
  const alt = "candidate " + item.rank + " for " + state.data.name + (item.caption ? ": " + item.caption : "");
  const accept = make("button", { type: "button", tabIndex: -1, disabled: item.locked }, "Accept");
  const reject = make("button", { type: "button", tabIndex: -1 }, "Reject");
  const told = make("p", { className: "badge" });
  const node = make("li", { className: "card", tabIndex: -1, title: hover },
    picture(state.data.images[item.image], alt),
    make("p", { className: "p" }, "p " + probability(item.p)),
    told, make("div", { className: "buttons" }, accept, reject));
  node.dataset.key = item.key;
  node.addEventListener("focusin", () => mark(number));
  node.addEventListener("mousedown", () => mark(number));
  accept.addEventListener("click", () => { focus(number); decide("accept", false); });
  reject.addEventListener("click", () => { focus(number); decide("reject", false); });
  return { item, node, accept, reject, told };
}

// what sorts the images of a class -> their number, and whether the largest comes first
const SORTS = {
  rank: (item) => -item.rank,
  p_k: (item) => item.p,
  "log-odds": (item) => item.log_odds,
  "margin over the next class": (item) => item.margin,
  "likeness to a training image": (item) => item.nearest_similarity,
};
const SHOWN = {
  "all images": () => true,
  undecided: (now) => !now.hand,
  accepted: (now) => now.is === "accepted",
  rejected: (now) => now.is === "rejected",
};

function looked(items, label) {
  const [sort, shown] = [SORTS[place("sort").value], SHOWN[place("verdict").value]];
  return items
    .filter((item) => shown(verdict(item, label)) && holds([item.key, item.caption, badge(item, label)], place("filter").value))
    .sort((one, other) => sort(other) - sort(one) || one.rank - other.rank);
}

function grid(title, all, label, more) {
  const list = make("ul", { className: "grid" }), heading = make("h3");
  const items = looked(all, label);
  for (const item of items) {
    const made = card(item, label, state.cards.length);
    state.cards.push(made);
    list.append(made.node);
  }
  state.headings.push(() => {
    const accepted = all.filter((item) => verdict(item, label).is === "accepted").length;
    const hidden = all.length - items.length;
    heading.textContent = title + " (" + all.length + (more ? " of " + (all.length + more) : "") + "; " + accepted + " accepted"
      + (hidden ? ", " + hidden + " hidden by the filter" : "") + ")";
  });
  return items.length ? [heading, list] : [heading];
}

function training(data) {
  const list = make("ul", { className: "grid" });
  for (const entry of data.training) {
    const alt = "training image " + entry.key + " of " + data.name;
    list.append(make("li", { className: "train", title: entry.key }, picture(data.images[entry.image], alt)));
  }
  const heading = make("h3", {}, "Training images (" + data.training.length + " of " + data.train + ")");
  return data.training.length ? [heading, list] : [heading];
}

function zero(data) {
  let text = "No image was taken for this class.";
  if (!data.quota) text += " It has " + data.train + " training images and wants no more.";
  else if (!data.candidates) text += " The pool has no candidate for it.";
  else text += " None of its " + data.candidates + " candidates passed the guards.";
  return make("p", { className: "zero" }, text);
}

function show(number) {
  if (number < 0 || number >= page.classes.length) return;
  const entry = page.classes[number];
  state.shown = number;
  state.data = { ...entry, ...JSON.parse(place("class-" + entry.label).textContent) };
  draw();
  place("class").scrollTop = 0;
  for (const [n, node] of [...place("classes").children].entries()) {
    node.firstChild.setAttribute("aria-current", String(n === number));
    if (n === number) node.scrollIntoView({ block: "nearest" });
  }
  if (state.cards.length) focus(0, true);
  else place("classes").children[number].firstChild.focus();
}

// the next class that is listed, in a direction
function step(direction) {
  const nodes = place("classes").children;
  let number = state.shown + direction;
  while (nodes[number] && nodes[number].hidden) number += direction;
  show(number);
}

function draw() {
  const data = state.data;
  Object.assign(state, { cards: [], headings: [], at: -1 });
  const prompts = data.prompts.slice(0, 5).map((text) => "“" + text + "”").join(" · ");
  const more = data.prompts.length > 5 ? " and " + (data.prompts.length - 5) + " more" : "";
  const picks = data.items.filter((item) => item.status === "accepted");
  const misses = data.items.filter((item) => item.status !== "accepted");
  const reasons = Object.entries(data.rejected).map(([name, n]) => n + " × " + (page.reasons[name] || name));
  const counts = make("p", { className: "note counts" }), nothing = zero(data);
  state.headings.push((now) => {
    counts.textContent = "class " + data.label + ", " + data.train + " training images, " + data.quota + " wanted, " + now + " taken";
    nothing.hidden = now > 0;
  });
  place("class").replaceChildren(
    make("h2", {}, data.name + " "), counts,
    make("p", { className: "prompts" }, "prompt: " + prompts + more),
    ...training(data), nothing,
    ...grid("Retrieved", picks, data.label, data.accepted - picks.length),
    ...grid("Rejected near misses", misses, data.label, data.candidates - data.accepted - misses.length),
    make("p", { className: "note" }, reasons.length ? "rejected: " + reasons.join(" · ") : ""));
  place("detail").replaceChildren();
  place("all").disabled = !state.cards.length;
  refresh();
}

function rows(data, item) {
  const margin = item.margin.toFixed(3) + " over " + item.runner_up;
  const near = item.nearest_key ? item.nearest_key + " (" + item.nearest_class + "), cosine " + item.nearest_similarity.toFixed(3) : "";
  const decided = verdict(item, data.label).hand ? badge(item, data.label) : "";
  const guards = item.status === "accepted" ? "taken" : page.reasons[item.reason] || item.reason;
  return [["p_k", String(Number(item.p.toPrecision(6)))], ["log-odds", item.log_odds.toFixed(4)], ["rank", String(item.rank)],
    ["margin", margin], ["guards", guards], ["by hand", decided], ["repeats", item.duplicate_of],
    ["taken for", item.taken_for ? item.taken_for + "; accepting it here takes it from there" : ""],
    ["nearest", near], ["caption", item.caption], ["url", item.url], ["licence", item.licence],
    ["source", item.source], ["size", item.width > 0 ? item.width + " × " + item.height : ""],
    ["key", item.key], ["uri", item.uri]];
}

function detail() {
  const card = state.cards[state.at];
  if (!card) return place("detail").replaceChildren();
  const list = make("dl");
  for (const [name, text] of rows(state.data, card.item)) {
    if (!text) continue;
    const value = name === "url" && web(text)
      ? make("a", { href: text, rel: "noopener noreferrer", target: "_blank" }, text) : text;
    list.append(make("dt", {}, name), make("dd", {}, value));
  }
  const images = state.data.images, nodes = [picture(images[card.item.image], "the image in focus, larger"), list];
  if (card.item.nearest_image !== null) {
    nodes.push(make("p", { className: "note" }, "nearest training image"),
      picture(images[card.item.nearest_image], "nearest training image " + card.item.nearest_key, "nearest"));
  }
  place("detail").replaceChildren(...nodes);
}

// --- movement -----------------------------------------------------------------------------------

function mark(index) {
  if (index === state.at) return;
  const before = state.cards[state.at];
  if (before) for (const node of [before.node, before.accept, before.reject]) node.tabIndex = -1;
  state.at = index;
  const now = state.cards[index];
  for (const node of [now.node, now.accept, now.reject]) node.tabIndex = 0;
  detail();
}

function focus(index, stay) {
  mark(index);
  state.cards[index].node.focus({ preventScroll: true });
  if (!stay) state.cards[index].node.scrollIntoView({ block: "nearest" });
}

function move(index) {
  if (state.cards.length) focus(Math.max(0, Math.min(index, state.cards.length - 1)));
}

// up and down: the nearest card of the next row, which may belong to the other grid
function vertical(direction) {
  if (state.at < 0) return move(0);
  const from = state.cards[state.at].node.getBoundingClientRect();
  let best = -1, score = Infinity;
  for (const [n, card] of state.cards.entries()) {
    const box = card.node.getBoundingClientRect();
    const down = direction * (box.top - from.top);
    const cost = down * 10000 + Math.abs(box.left - from.left);
    if (down > 4 && cost < score) { best = n; score = cost; }
  }
  if (best >= 0) focus(best);
}

const KEYS = {
  ArrowLeft: () => move(state.at - 1),
  ArrowRight: () => move(state.at + 1),
  ArrowUp: () => vertical(-1),
  ArrowDown: () => vertical(1),
  a: () => decide("accept", false),
  r: () => decide("reject", false),
  y: () => decide("accept", true),
  n: () => decide("reject", true),
  j: () => step(1),
  k: () => step(-1),
  u: undo,
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, select, textarea")) return;
  const action = Object.hasOwn(KEYS, event.key) ? KEYS[event.key] : null;
  if (!action) return;
  event.preventDefault();
  action();
});

// --- what is always there -----------------------------------------------------------------------

function refresh() {
  for (const card of state.cards) {
    const now = verdict(card.item, state.data.label);
    card.node.dataset.verdict = now.is;
    card.told.textContent = badge(card.item, state.data.label);
    card.accept.setAttribute("aria-pressed", String(now.hand === "accept"));
    card.reject.setAttribute("aria-pressed", String(now.hand === "reject"));
  }
  const counts = { accept: 0, reject: 0 }, perClass = new Map();
  for (const [name, decision] of state.decisions) {
    const label = parts(name)[0];
    counts[decision] += 1;
    perClass.set(label, (perClass.get(label) || 0) + 1);
  }
  place("tally").textContent = counted(state.decisions.size) + ": " + counts.accept + " accepted, " + counts.reject + " rejected";
  const now = taken();
  for (const tell of state.headings) tell(now.get(state.data.label));
  for (const [n, entry] of page.classes.entries()) {
    const decided = perClass.get(entry.label) || 0;
    const small = place("classes").children[n].querySelector("small");
    small.textContent = now.get(entry.label) + " of " + entry.quota + " taken" + (decided ? ", " + decided + " by hand" : "");
  }
  if (state.at >= 0) detail();
}

function begin() {
  place("about").textContent = page.about;
  place("explained").textContent = page.explained;
  for (const [n, entry] of page.classes.entries()) {
    const button = make("button", { type: "button" }, entry.label + " " + entry.name, make("small"));
    button.addEventListener("click", () => show(n));
    place("classes").append(make("li", { hidden: !entry.quota && !entry.accepted }, button));
  }
  const idle = [...place("classes").children].filter((node) => node.hidden);
  const more = make("button", { type: "button", id: "idle", hidden: !idle.length }, "show " + idle.length + " classes that wanted nothing");
  more.addEventListener("click", () => { for (const node of [...idle, more]) node.hidden = !node.hidden; });
  place("classes").after(more);
  load();
  place("undo").addEventListener("click", undo);
  place("export").addEventListener("click", save);
  place("import").addEventListener("click", () => place("file").click());
  place("file").addEventListener("change", async (event) => {
    const [file] = event.target.files;
    if (file) await read(file);
    event.target.value = "";
  });
  place("clear").addEventListener("click", () => {
    const all = [...state.decisions.keys()].map((name) => [name, null]);
    if (all.length) change(all, state.data.label, "");
    say(counted(all.length) + " cleared; Undo brings them back.");
  });
  window.addEventListener("storage", (event) => {  // the same page in another tab
    if (event.key === store) { load(); refresh(); }
  });
  place("all").addEventListener("click", acceptVisible);
  options(place("sort"), Object.keys(SORTS));
  options(place("verdict"), Object.keys(SHOWN));
  controls(draw);
  const first = page.classes.findIndex((entry, n) => !place("classes").children[n].hidden);
  if (page.classes.length) show(Math.max(0, first));
}

begin();
