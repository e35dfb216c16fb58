
const ORDER = "the order of the list";
const state = { cards: [], points: new Map(), at: null };

const alt = (item) => page.captions.map((name) => name + " " + item.facts[name]).join(", ") || item.key;
const told = (value) => typeof value === "number" ? String(Number(value.toPrecision(6))) : value;

function detail(item) {
  const list = make("dl");
  for (const [name, value] of [...Object.entries(item.facts), ["image", item.key]]) {
    list.append(make("dt", {}, name), make("dd", {}, told(value)));
  }
  place("detail").replaceChildren(picture(page.images[item.image], alt(item)), list);
}

function choose(item) {
  const before = state.points.get(state.at), now = state.points.get(item);
  if (before) before.classList.remove("chosen");
  if (now) { now.classList.add("chosen"); now.parentNode.append(now); }
  state.at = item;
  detail(item);
}

function card(item) {
  const lines = page.captions.map((name) => make("p", {}, name + ": " + told(item.facts[name])));
  const node = make("li", { className: "card", tabIndex: 0 }, picture(page.images[item.image], alt(item)), ...lines);
  node.dataset.key = item.key;
  node.addEventListener("focusin", () => choose(item));
  node.addEventListener("click", () => choose(item));
  return { item, node };
}

// --- the map ------------------------------------------------------------------------------------

function svg(tag, attributes, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

function map() {
  const items = page.items.filter((item) => item.point);
  if (!items.length) return;
  const [width, height, edge] = [900, 600, 12];
  const scaled = (axis, size) => {
    const values = items.map((item) => item.point[axis]);
    const low = Math.min(...values), span = Math.max(...values) - low || 1;
    return (item) => edge + (size - 2 * edge) * (item.point[axis] - low) / span;
  };
  const [x, y] = [scaled(0, width), scaled(1, height)];
  const values = [...new Set(items.map((item) => item.facts[page.facets[0]]))];
  const hue = new Map(values.map((value, n) => [value, Math.round(n * 360 / values.length)]));
  for (const item of items) {
    const colour = "hsl(" + hue.get(item.facts[page.facets[0]]) + " 70% 50%)";
    const node = svg("circle", { cx: x(item), cy: y(item), r: 6, fill: colour }, svg("title", {}, alt(item)));
    node.addEventListener("click", () => {
      const shown = state.cards.find((one) => one.item === item);
      if (shown) shown.node.focus();
    });
    state.points.set(item, node);
  }
  place("coloured").textContent = page.facets[0];
  place("map").append(svg("svg", { viewBox: "0 0 " + width + " " + height, role: "img", "aria-label": "map of the images" }, ...state.points.values()));
  place("map").hidden = false;
}

// --- what is shown ------------------------------------------------------------------------------

function compared(one, other) {  // numbers begin with the largest, texts with A
  return typeof one === "number" ? other - one : String(one).localeCompare(String(other), undefined, { numeric: true });
}

function draw() {
  const wanted = [...place("facets").querySelectorAll("select")].filter((select) => select.selectedIndex > 0);
  const sort = place("sort").value;
  const items = page.items.filter((item) =>
    wanted.every((select) => String(item.facts[select.name]) === select.value)
    && holds([item.key, ...page.captions.map((name) => String(item.facts[name]))], place("filter").value));
  if (sort !== ORDER) items.sort((one, other) => compared(one.facts[sort], other.facts[sort]));
  state.cards = items.map(card);
  place("pictures").replaceChildren(...state.cards.map((one) => one.node));
  place("shown").textContent = items.length + " of " + page.items.length + " images shown";
  const there = new Set(items);
  for (const [item, node] of state.points) node.toggleAttribute("hidden", !there.has(item));
  if (items.length) choose(items[0]);
  else place("detail").replaceChildren();
}

function begin() {
  for (const text of page.about) place("about").append(make("li", {}, text));
  options(place("sort"), [ORDER, ...page.sorts]);
  for (const name of page.facets) {
    const select = make("select", { name, autocomplete: "off" }), counts = new Map();
    for (const item of page.items) counts.set(item.facts[name], (counts.get(item.facts[name]) || 0) + 1);
    select.append(make("option", { value: "" }, "all"));
    for (const [value, n] of [...counts].sort((one, other) => compared(String(one[0]), String(other[0])))) {
      select.append(make("option", { value: String(value) }, value + " (" + n + ")"));
    }
    place("facets").append(make("label", {}, name + " ", select));
  }
  map();
  controls(draw);
  draw();
}

begin();
