// Keeps a page up to date: the server says that there is something new, the page asks for itself and exchanges what differs.
"use strict";

const link = document.querySelector(".live");
let known = document.body.dataset.version;
let source = null;
let asking = false;
let again = false;

function tell(state) {
  if (link) link.dataset.link = state;
}

/** Make the children and attributes of `old` those of `fresh`; nodes that are equal stay, with scroll and selection. */
function morph(old, fresh) {
  if (old.isEqualNode(fresh)) return;
  for (const { name } of [...old.attributes]) {
    // An open <details> stays open.
    if (!fresh.hasAttribute(name) && name !== "open") old.removeAttribute(name);
  }
  for (const { name, value } of fresh.attributes) {
    if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  const wanted = [...fresh.childNodes];
  let at = old.firstChild;
  for (const next of wanted) {
    let match = at;
    if (next.id && (!at || at.id !== next.id)) {
      const found = [...old.children].find((child) => child.id === next.id);
      if (found) {
        old.insertBefore(found, at);
        match = found;
      } else {
        old.insertBefore(next, at);
        continue;
      }
    }
    if (!match) {
      old.appendChild(next);
    } else if (match.nodeName !== next.nodeName || (match.id || "") !== (next.id || "")) {
      old.insertBefore(next, match);
      at = match;
      continue;
    } else if (match.nodeType === Node.ELEMENT_NODE) {
      const log = match.matches("pre.log") && match.scrollTop + match.clientHeight >= match.scrollHeight - 8;
      morph(match, next);
      if (log) match.scrollTop = match.scrollHeight;
    } else if (match.nodeValue !== next.nodeValue) {
      match.nodeValue = next.nodeValue;
    }
    at = match.nextSibling;
  }
  while (at) {
    const gone = at;
    at = at.nextSibling;
    gone.remove();
  }
}

async function refresh() {
  if (asking) {
    again = true;
    return;
  }
  asking = true;
  try {
    const answer = await fetch(location.href, { headers: { "X-Pi0q-Part": "main" }, cache: "no-store" });
    if (answer.ok || answer.status === 404) {
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      const main = page.querySelector("main");
      if (main) morph(document.querySelector("main"), main);
      known = answer.headers.get("X-Pi0q-Version") || known;
      document.body.dataset.version = known;
    }
  } catch (error) {
    tell("off");
  } finally {
    asking = false;
    if (again) {
      again = false;
      refresh();
    }
  }
}

function listen() {
  if (source || document.hidden || document.body.dataset.still !== undefined) return;
  source = new EventSource("/events");
  source.onopen = () => tell("on");
  source.onerror = () => tell("off");
  source.onmessage = (event) => {
    tell("on");
    if (event.data !== known) refresh();
  };
}

// A browser allows six connections to a host: a tab that nobody sees must not hold one.
document.addEventListener("visibilitychange", () => {
  if (document.hidden && source) {
    source.close();
    source = null;
  } else {
    listen();
  }
});

for (const log of document.querySelectorAll("pre.log")) log.scrollTop = log.scrollHeight;
listen();
