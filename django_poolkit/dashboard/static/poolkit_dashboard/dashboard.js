/* Keeps the page as it is now: asks for its changing part every few seconds, and changes nothing
   but what differs, so that focus, selection and scrolled tables stay where they are. */
"use strict";
{
  const live = document.getElementById("poolkit-live");
  const news = document.getElementById("poolkit-news");
  const halt = document.getElementById("poolkit-halt");
  const interval = Number(live.dataset.interval) * 1000;
  const patience = 10000;
  let halted = false;
  let failures = 0;
  let timer = 0;

  const keyOf = (node) => (node.nodeType === 1 && node.getAttribute("data-key")) || node.nodeName;

  function renew(old, fresh) {
    if (old.nodeType !== 1) {
      if (old.data !== fresh.data) old.data = fresh.data;
      return;
    }
    for (const { name } of [...old.attributes]) if (!fresh.hasAttribute(name)) old.removeAttribute(name);
    for (const { name, value } of fresh.attributes) {
      if (old.getAttribute(name) !== value) old.setAttribute(name, value);
    }
    renewChildren(old, fresh);
  }

  function renewChildren(old, fresh) {
    let here = old.firstChild;
    for (const next of [...fresh.childNodes]) {
      let found = here;
      while (found && keyOf(found) !== keyOf(next)) found = found.nextSibling;
      if (!found) {
        old.insertBefore(document.importNode(next, true), here);
        continue;
      }
      while (here !== found) here = removed(here);
      renew(here, next);
      here = here.nextSibling;
    }
    while (here) here = removed(here);
  }

  function removed(node) {
    const next = node.nextSibling;
    // Who had the focus in what is gone goes on from the part that is shown.
    if (node.contains(document.activeElement)) live.focus({ preventScroll: true });
    node.remove();
    return next;
  }

  // Said aloud by screen readers, so only where something has changed.
  function say(text) {
    if (news.textContent !== text) news.textContent = text;
  }

  async function look() {
    const response = await fetch(live.dataset.from, {
      credentials: "same-origin",
      redirect: "manual",
      cache: "no-store",
      signal: AbortSignal.timeout(patience),
    });
    if (response.type === "opaqueredirect" || response.status === 403) {
      say("You are not logged in any more. Refresh the page to log in.");
      return false;
    }
    if (!response.ok) throw new Error(String(response.status));
    const fresh = new DOMParser().parseFromString(await response.text(), "text/html");
    renewChildren(live, fresh.body);
    live.removeAttribute("data-stale");
    const status = live.querySelector("[data-news]").dataset.news;
    say(status === "fine" ? "" : `The pools are ${status}.`);
    return true;
  }

  async function step() {
    let goOn = true;
    try {
      if (!document.hidden) goOn = await look();
      failures = 0;
    } catch (error) {
      failures += 1;
      live.setAttribute("data-stale", "");
      say(`The site does not answer (${error.message}). This is how it was at the time below.`);
    }
    if (goOn) plan(interval * Math.min(2 ** failures, 8));
  }

  function plan(milliseconds) {
    window.clearTimeout(timer);
    if (!halted) timer = window.setTimeout(step, milliseconds);
  }

  halt.hidden = false;
  halt.addEventListener("click", () => {
    halted = !halted;
    halt.setAttribute("aria-pressed", String(halted));
    say(halted ? "Updating has stopped." : "");
    plan(0);
  });
  document.addEventListener("visibilitychange", () => document.hidden || plan(0));
  plan(interval);
}
