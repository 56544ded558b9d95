"use strict";

/* Shows what is new without being asked; the page works without it. */
const SECONDS = 4;
const stale = document.getElementById("stale");
const shown = new Map();
let tag = "";

function parts(page) {
  return page.querySelectorAll("[data-live]");
}

/* What a reader has opened stays open, and the keyboard stays where it is. */
function exchange(old, fresh) {
  const open = [...old.querySelectorAll("details[open]")].map((one) => one.id);
  const focused = old.contains(document.activeElement) ? document.activeElement.id : "";
  old.replaceChildren(...fresh.childNodes);
  for (const one of old.querySelectorAll("details")) one.open = open.includes(one.id);
  if (focused) document.getElementById(focused)?.focus();
}

function say(text) {
  stale.textContent = text;
  stale.hidden = text === "";
}

async function refresh() {
  if (document.visibilityState !== "visible") return;
  try {
    const headers = tag ? { "If-None-Match": tag } : {};
    const response = await fetch(location.pathname, { cache: "no-store", headers });
    if (response.status === 403) {
      say("This link has ended. Type tacit agent page for a new one; what stands here is old.");
      return;
    }
    if (response.status !== 304) {
      if (!response.ok) throw new Error();
      tag = response.headers.get("ETag") ?? "";
      const page = new DOMParser().parseFromString(await response.text(), "text/html");
      for (const fresh of parts(page)) {
        const text = fresh.innerHTML;
        const old = document.getElementById(fresh.id);
        if (old && shown.get(fresh.id) !== text) exchange(old, fresh);
        shown.set(fresh.id, text);
      }
    }
    say("");
  } catch {
    say("The page is not served any more: the agent has stopped, or was started anew. What stands here is old; after a start, type tacit agent page for a new link.");
  }
}

for (const part of parts(document)) shown.set(part.id, part.innerHTML);
setInterval(refresh, 1000 * SECONDS);
document.addEventListener("visibilitychange", refresh);
