"use strict";
// What every page of pictures has. Texts of the data become text nodes and attributes, never markup.

const page = JSON.parse(document.getElementById("page").textContent);
const place = (name) => document.getElementById(name);

function make(tag, properties, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties || {})) {
    if (name in node) node[name] = value;
    else node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

function picture(image, alt, kind) {
  const box = make("div", { className: "picture" + (kind ? " " + kind : "") });
  if (image && image.data) {
    box.append(make("img", { src: image.data, alt, decoding: "async" }));
  } else {
    box.append(make("span", {}, "no picture: " + (image ? image.error : "not in this page")));
  }
  return box;
}

const web = (text) => /^https?:\/\//i.test(text);

// whether texts hold every word that a person typed
function holds(texts, typed) {
  const all = texts.join("\n").toLowerCase();
  return typed.toLowerCase().split(/\s+/).every((word) => all.includes(word));
}

function options(select, names) {
  for (const name of names) select.append(make("option", { value: name }, name));
}

// thumbnails are as large as the person likes, and other controls call what draws the cards again
function controls(draw) {
  const size = place("size");
  const sized = () => document.documentElement.style.setProperty("--edge", size.value + "px");
  size.addEventListener("input", sized);
  sized();
  for (const control of document.querySelectorAll("#look select, #look input[type=search]")) {
    control.addEventListener(control.matches("select") ? "change" : "input", draw);
  }
}
