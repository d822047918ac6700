// Refreshes the main element. Without a script the page reloads itself.

// Changes only the nodes that differ: scroll positions and the focus stay.
const renew = (old, now) => {
  if (old.isEqualNode(now)) return;
  const parts = [...now.childNodes];
  if (old.nodeName !== now.nodeName || old.childNodes.length !== parts.length) {
    old.replaceWith(now);
  } else if (old.nodeType === Node.TEXT_NODE) {
    old.data = now.data;
  } else {
    for (const { name } of [...old.attributes]) {
      if (!now.hasAttribute(name)) old.removeAttribute(name);
    }
    for (const { name, value } of now.attributes) old.setAttribute(name, value);
    parts.forEach((part, at) => renew(old.childNodes[at], part));
  }
};

const refresh = async () => {
  if (document.hidden) return;
  let lost = false;
  try {
    const response = await fetch("/?main", { signal: AbortSignal.timeout(5000) });
    if (!response.ok) throw response.status;
    const main = document.querySelector("main");
    const now = main.cloneNode();
    now.innerHTML = await response.text();
    const revision = (part) => part.querySelector("h1").dataset.revision;
    // The page of another version may need another style and script.
    if (revision(now) !== revision(main)) location.reload();
    // A refresh would drop the selection. The state is always current.
    if (getSelection().isCollapsed) renew(main, now);
    else renew(main.querySelector("#state"), now.querySelector("#state"));
  } catch {
    lost = true;
    const state = document.querySelector("#state");
    state.textContent = "no answer";
    state.className = "bad";
  }
  document.body.classList.toggle("lost", lost);
};

const again = async () => {
  await refresh();
  setTimeout(again, 2000);
};
setTimeout(again, 2000);
document.body.classList.add("live");
document.addEventListener("visibilitychange", refresh);
