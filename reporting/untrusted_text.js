"use strict";
// Texts of models, users and servers are untrusted: they reach a page through text nodes alone. The first part of every page's script.

// Control characters, marks that reorder text, and halves of surrogate pairs stand as escapes.
const INVISIBLE = /[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ufeff]|\p{Surrogate}/gu;

function visible(text) {
  return text.replace(INVISIBLE, (c) => {
    const code = c.charCodeAt(0).toString(16);
    return code.length > 2 ? "\\u" + code.padStart(4, "0") : "\\x" + code.padStart(2, "0");
  });
}

function element(tag, className, ...children) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  for (const child of children) {
    if (typeof child !== "string") made.append(child);
    else made.append(document.createTextNode(visible(child)));
  }
  return made;
}
