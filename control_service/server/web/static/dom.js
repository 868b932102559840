// The only ways in which this page writes to the document: text is text, never markup.

export function byId(id) {
  return document.getElementById(id);
}

// An unchanged text is left alone: it may be selected, and a live region would read it again.
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export function make(tag, { text, className, ...attributes } = {}, children = []) {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  if (className) element.className = className;
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

// Builds an element's children anew, but only if what they are made from has changed.
const madeFrom = new WeakMap();

export function setChildren(element, content, build) {
  const key = JSON.stringify(content);
  if (madeFrom.get(element) === key) return;
  madeFrom.set(element, key);
  element.replaceChildren(...build(content));
}

// A table in a region of its own that scrolls, also by keyboard.
export function setTable(details, titles, rows) {
  if (!details.open) return;
  setChildren(details.querySelector(".scroll") ?? scrollRegion(details), [titles, rows], () => [
    make("table", {}, [
      make("thead", {}, [make("tr", {}, titles.map((text) => make("th", { text, scope: "col" })))]),
      make("tbody", {}, rows.map(([first, ...others]) => make("tr", {}, [
        make("th", { text: first, scope: "row" }),
        ...others.map((text) => make("td", { text })),
      ]))),
    ]),
  ]);
}

function scrollRegion(details) {
  const label = details.querySelector("summary").textContent;
  const region = make("div", { className: "scroll", tabindex: "0", role: "region", "aria-label": label });
  details.append(region);
  return region;
}
